"""Replay and purge: what is meant leaves, what is not stays as it is."""

from __future__ import annotations

import pytest

from tests.contract.harnesses import MemoryHarness, MemoryQueueHarness
from tests.unit.dead_letters.tools import Shop, letter, put, record
from unibus import Bus, ConfigurationError, Message, Queue, Reject, UnsupportedCapability, dead_letter
from unibus.errors import DestinationNotFound
from unibus.testing.faults import Faults


async def test_once_its_handler_is_mended_a_letter_is_handled_once(harness: MemoryHarness) -> None:
    shop = Shop(harness)
    async with harness.running(shop.bus):
        sent = await shop.bus.producer("orders").send(7, key="k", headers={"h": "ü"}, correlation_id="c")
        await shop.has(harness, dead=1, handled=0)
        box = shop.bus.dead_letters("orders")
        (found,) = await box.browse()
        shop.mend()
        report = await harness.passing(box.replay())
        await shop.has(harness, dead=0, handled=1)
        await harness.silent()
    assert (report.total, report.seen, report.done, report.complete) == (1, 1, 1, True)
    assert shop.runs == {7: 2}
    (message,) = shop.messages
    assert (message.id, message.key, message.headers, message.body) == (sent, "k", {"h": "ü"}, found.body)
    assert (message.attempt, message.correlation_id, message.type, message.dead_letter) == (1, "c", "int", None)


async def test_what_is_not_meant_stays_as_it_is(harness: MemoryHarness) -> None:
    shop = Shop(harness)
    async with harness.running(shop.bus):
        await shop.bus.producer("orders").send_many(range(30), key=lambda n: f"k{n % 4}", headers={"h": "1"})
        await shop.has(harness, dead=30, handled=0)
        box, before = shop.bus.dead_letters("orders"), {}
        for one in await box.browse():
            before[one.id] = (one.body, one.record, dict(one.delivery.headers), one.delivery.key, one.type)
        shop.mend()
        report = await harness.passing(box.replay("reason~is broken", limit=4))
        await shop.has(harness, dead=26, handled=4)
        report = await harness.passing(box.replay(["reason~order 2", "key=k1"]))
        left = await box.browse(limit=None)
        await shop.has(harness, dead=len(left), handled=30 - len(left))
    assert report.done + report.unmatched == report.seen == 26
    assert report.done
    for one in left:
        assert before[one.id] == (one.body, one.record, dict(one.delivery.headers), one.delivery.key, one.type)
    assert not {int(one.body or b"") for one in left} & set(shop.handled)
    assert set(shop.runs.values()) == {1, 2}, "each that was replayed ran once more"


async def test_what_fails_again_waits_for_the_next_run_and_stays_after_three(harness: MemoryHarness) -> None:
    shop = Shop(harness)
    async with harness.running(shop.bus):
        await shop.bus.producer("orders").send_many(range(10))
        await shop.has(harness, dead=10, handled=0)
        box = shop.bus.dead_letters("orders")
        for turn in (1, 2, 3):
            report = await harness.passing(box.replay(rate=5))  # slowly: they fail and are back before it ends
            await shop.has(harness, dead=10, handled=0)
            assert (report.total, report.done, report.tired) == (10, 10, 0)
            assert set(shop.runs.values()) == {1 + turn}
        assert {one.replays for one in await box.browse()} == {3}
        report = await harness.passing(box.replay())
        assert (report.done, report.tired, report.complete) == (0, 10, False)
        await harness.silent()
        assert set(shop.runs.values()) == {4}
        shop.mend()
        assert (await harness.passing(box.replay(force=True))).done == 10
        await shop.has(harness, dead=0, handled=10)


async def test_a_groups_letter_goes_to_that_group_alone(harness: MemoryHarness) -> None:
    bus, mended, got, others = harness.bus(), False, list[Message[int]](), list[int]()

    @bus.subscriber("order.created", group="email")
    @dead_letter()
    async def mail(message: Message[int]) -> None:
        if not mended:
            raise Reject
        got.append(message)

    @bus.subscriber("order.*", group="audit")
    async def audit(number: int) -> None:
        others.append(number)

    async with harness.running(bus):
        await bus.publisher("order.created").publish(1)
        await put(bus.driver, Queue("unibus.group.email.dlq"), [letter(2), letter(3, topic="elsewhere")])
        box = bus.dead_letters("group:email")

        async def there() -> bool:
            return (await box.depth()).ready == 3

        await harness.until(there, "it is a dead letter")
        assert {one.source for one in await box.browse()} == {"group:email"}
        mended = True
        report = await harness.passing(box.replay())
        await harness.until(lambda: len(got) == 3, "the group has them, two of which name no topic that it reads")
        await harness.silent()
        assert (await box.depth()).ready == 0
    assert report.done == 3
    assert others == [1]
    assert {message.address for message in got if message.data == 1} == {"order.created"}


async def test_strangers_and_letters_of_others(harness: MemoryHarness) -> None:
    shop = Shop(harness)
    shop.mend()
    async with harness.running(shop.bus):
        driver = shop.bus.driver
        await put(driver, Queue("invoices"), [])
        strange = [letter(1), letter(2, record("invoices")), letter(3, record("no.such")), letter(4, record("!"))]
        await put(driver, Queue("orders.dlq"), strange)
        own, whole = shop.bus.dead_letters("orders"), shop.bus.dead_letters("orders.dlq")
        assert [one.body for one in await own.browse()] == [b"1"]
        assert {one.source for one in await whole.browse()} == {"orders", "invoices", "no.such", "!"}
        report = await harness.passing(own.replay())
        assert (report.done, report.unmatched) == (1, 3)
        await shop.has(harness, dead=3, handled=1)
        report = await harness.passing(whole.replay())
        assert (report.done, report.failed) == (1, 2)
        assert "no.such" in report.reasons["order-000003"]
        assert (await driver.depth(Queue("invoices"))).ready == 1
        assert (await whole.depth()).ready == 2
        assert (await harness.passing(own.purge())).done == 0, "those of others are not ours to delete"
        assert (await harness.passing(whole.purge())).done == 2
        assert (await whole.depth()).ready == 0


async def test_a_queue_of_dead_letters_with_a_name_of_its_own(harness: MemoryHarness) -> None:
    bus, mended, got = harness.bus(), False, list[int]()

    @bus.consumer("orders")
    @dead_letter("rejected")
    async def handle(number: int) -> None:
        if not mended:
            raise Reject
        got.append(number)

    async with harness.running(bus):
        await bus.producer("orders").send(1)
        box = bus.dead_letters("orders")
        await harness.until(lambda: bus.stats()["orders"].dead_lettered == 1, "it is a dead letter")
        mended = True
        await put(bus.driver, Queue("rejected"), [letter(9)])
        report = await harness.passing(bus.dead_letters("dlq:rejected").replay())
        assert (report.done, report.failed) == (1, 1)
        assert "no record" in report.reasons["order-000009"]
        assert box.queue.name == "rejected"
        await harness.until(lambda: got == [1], "it is handled")


async def test_ordered_queues_get_theirs_in_order(harness: MemoryHarness) -> None:
    got: list[int] = []
    first = harness.bus()
    async with harness.connected(first):
        orders = Queue("orders", ordering="key")
        await put(first.driver, orders, [])
        messages = [letter(n, record()) for n in range(20)]
        for message in messages:
            message.key = "one"
        await put(first.driver, orders.dead_letters, messages)
        # By its name alone, as on the command line.
        assert (await harness.passing(first.dead_letters("orders").replay())).done == 20
    bus = harness.bus()

    @bus.consumer(orders)
    async def handle(number: int) -> None:
        got.append(number)

    async with harness.running(bus):
        await harness.until(lambda: len(got) >= 20, "all are handled")
    assert got == list(range(20))


# --- rates, limits, ids -----------------------------------------------------------------------------------


async def test_a_rate_is_never_exceeded_and_leases_last(harness: MemoryHarness) -> None:
    shop = Shop(harness)
    shop.mend()
    at: list[float] = []
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(12)])
        started = harness.now()
        report = await harness.passing(
            shop.bus.dead_letters("orders").replay(rate=0.1, progress=lambda report: at.append(harness.now()))
        )
        assert harness.now() - started >= 11 / 0.1, "three times a lease"
        await shop.has(harness, dead=0, handled=12)
    assert (report.done, report.unsettled) == (12, 0)
    assert len(at) >= 12
    assert set(shop.runs.values()) == {1}
    with pytest.raises(ConfigurationError, match="rate=0"):
        async with harness.connected(shop.bus):
            await shop.bus.dead_letters("orders").replay(rate=0)


class ShortHoldHarness(MemoryQueueHarness):
    options = "hold=60"


async def test_nothing_is_held_for_longer_than_the_broker_allows() -> None:
    harness = ShortHoldHarness()
    await harness.begin()
    shop = Shop(harness)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(20)])
        report = await harness.passing(shop.bus.dead_letters("orders").replay("id!~000000", rate=0.2))
        await shop.has(harness, dead=1, handled=19)
        (left,) = await shop.bus.dead_letters("orders").browse()
        assert not left.delivery.redelivered, "it was written anew in time, and not taken away from us"
    assert (report.done, report.unmatched, report.unsettled, report.stopped) == (19, 1, 0, "")
    assert set(shop.runs.values()) == {1}
    await harness.end()


async def test_letters_are_named_by_their_ids(harness: MemoryHarness) -> None:
    shop = Shop(harness)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(10)])
        box = shop.bus.dead_letters("orders")
        assert [one.body for one in await box.browse(ids=["order-000004"])] == [b"4"]
        with pytest.raises(ConfigurationError, match="too short"):
            await box.browse(ids=["4"])
        with pytest.raises(ConfigurationError, match="limit=0"):
            await box.purge(limit=0)
        assert (await harness.passing(box.replay(ids=["000004", "000007"]))).done == 2
        await shop.has(harness, dead=8, handled=2)
        assert (await harness.passing(box.purge(ids=["000005"], where="id~9"))).done == 0
        assert (await harness.passing(box.purge(limit=3))).done == 3
        await shop.has(harness, dead=5, handled=2)
    assert set(shop.handled) == {4, 7}


async def test_a_dry_run_changes_nothing(harness: MemoryHarness) -> None:
    shop = Shop(harness)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(10)])
        box = shop.bus.dead_letters("orders")
        assert box.can_browse
        report = await harness.passing(box.replay("id~4", dry_run=True))
        assert (report.done, report.unmatched, report.dry_run, report.complete) == (1, 9, True, True)
        assert (await harness.passing(box.purge(dry_run=True))).done == 10
        assert [one.delivery.redelivered for one in await box.browse()] == [False] * 10
        await shop.has(harness, dead=10, handled=0)
    assert not shop.runs


async def test_where_nobody_can_browse_letters_are_held_and_given_back(harness: MemoryHarness) -> None:
    shop = Shop(harness, faults=Faults())  # what passes through faults has no `browse`
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(10)])
        box = shop.bus.dead_letters("orders")
        assert not box.can_browse
        assert len(await harness.passing(box.browse("id!~3"))) == 9
        report = await harness.passing(box.replay("id~4", dry_run=True))
        assert (report.total, report.seen, report.done) == (10, 10, 1)
        assert len(await harness.passing(box.browse(limit=2))) == 2
        await shop.has(harness, dead=10, handled=0)
        report = await harness.passing(box.replay())
        assert report.done == 10
        await shop.has(harness, dead=0, handled=10)


async def test_where_what_is_received_is_gone_nobody_takes_it_in_hand() -> None:
    bus = Bus("memory://?guarantee=at_most_once")
    async with bus:
        await put(bus.driver, Queue("orders.dlq"), [letter(1, record())])
        assert len(await bus.dead_letters("orders").browse()) == 1
        with pytest.raises(UnsupportedCapability, match="at most once"):
            await bus.dead_letters("orders").purge()


async def test_without_a_queue_there_is_nothing_to_look_at(harness: MemoryHarness) -> None:
    bus = harness.bus()
    async with harness.connected(bus):
        with pytest.raises(DestinationNotFound):
            await bus.dead_letters("orders").browse()
        with pytest.raises(DestinationNotFound):
            await bus.dead_letters("orders").replay()
        with pytest.raises(ConfigurationError):
            bus.dead_letters("what is this")
        await put(bus.driver, Queue("orders.dlq"), [])
        report = await bus.dead_letters("orders").replay()
        assert (report.total, report.complete) == (0, True)


async def test_more_than_a_hand_holds(harness: MemoryHarness) -> None:
    shop = Shop(harness)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(2500)])
        box = shop.bus.dead_letters("orders")
        report = await harness.passing(box.replay("id~99"))
        meant = [n for n in range(2500) if "99" in f"{n:06}"]
        await shop.has(harness, dead=2500 - len(meant), handled=len(meant))
        left = [int(one.body or b"") for one in await box.browse(limit=None)]
    assert (report.seen, report.done) == (2500, len(meant))
    assert sorted(left + meant) == list(range(2500))
    assert shop.runs == dict.fromkeys(meant, 1)


async def test_what_others_have_in_hand_is_told(harness: MemoryHarness) -> None:
    shop = Shop(harness)
    shop.mend()
    async with harness.running(shop.bus):
        driver = shop.bus.driver
        await put(driver, Queue("orders.dlq"), [letter(n, record()) for n in range(5)])
        other = await driver.subscribe(Queue("orders.dlq"), prefetch=3, notify=lambda event: None)
        assert await harness.passing(other.receive(3, 1))
        report = await harness.passing(shop.bus.dead_letters("orders").replay())
        assert "did not come" in report.stopped
        assert report.done < 5
        await other.close()
        await harness.passing(shop.bus.dead_letters("orders").replay())
        await shop.has(harness, dead=0, handled=5)
    assert set(shop.runs.values()) == {1}

"""Replay and purge: what is meant leaves once it is confirmed, what is not stays as it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from tests.contract.harnesses import MemoryHarness, MemoryQueueHarness
from tests.unit.dead_letters.tools import Shop, letter, put, record
from unibus import Bus, ConfigurationError, Message, Queue, Reject, UnsupportedCapability, dead_letter, registry
from unibus.dead_letters.report import Report
from unibus.driver import Outcome
from unibus.errors import (
    BatchError,
    ConnectionLost,
    DestinationNotFound,
    MessageTooLarge,
    SettlementLost,
)
from unibus.memory import MemoryDriver
from unibus.memory.alarm import NEVER
from unibus.memory.queue_subscription import QueueSubscription
from unibus.testing.faults import (
    Call,
    Fault,
    Faults,
    Hold,
    Kind,
    Proceed,
    innermost,
    raising,
    raising_after,
    rejecting,
    unanswered,
)


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


# --- faults -----------------------------------------------------------------------------------------------


def to(name: str, outcome: Outcome | None = None) -> Callable[[Call], bool]:
    def is_to(call: Call) -> bool:
        return call.name == name and call.outcome is outcome

    return is_to


async def test_nothing_leaves_before_it_is_confirmed(harness: MemoryHarness) -> None:
    faults = Faults()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(6)])
        faults.calls.clear()
        await harness.passing(shop.bus.dead_letters("orders").replay("id~00000"))
        calls = [call for call in faults.calls if call.kind in ("send", "settle")]
        sends = [index for index, call in enumerate(calls) if call.kind == "send" and call.name == "orders"]
        acks = [index for index, call in enumerate(calls) if call.kind == "settle" and call.name == "orders.dlq"]
        assert max(sends) < min(acks)
        await shop.has(harness, dead=0, handled=6)


@pytest.mark.parametrize("fault", [rejecting(lambda m: m.body == b"2"), raising(ConnectionLost)], ids=["one", "all"])
async def test_what_is_not_stored_stays(harness: MemoryHarness, fault: Fault) -> None:
    faults = Faults()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(6)])
        faults.add("send", fault, when=to("orders"), times=None)
        report = await harness.passing(shop.bus.dead_letters("orders").replay())
        assert not report.complete
        assert report.done + report.failed == 6
        assert bool(report.stopped) is (report.done == 0)
        await shop.has(harness, dead=report.failed, handled=report.done)
        faults.clear()
        await harness.passing(shop.bus.dead_letters("orders").replay())
        await shop.has(harness, dead=0, handled=6)
    assert set(shop.runs.values()) == {1}


async def test_what_may_be_stored_stays_and_says_so(harness: MemoryHarness) -> None:
    faults = Faults()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(3)])
        faults.add("send", unanswered(lambda m: m.body == b"1"), when=to("orders"))
        report = await harness.passing(shop.bus.dead_letters("orders").replay())
        await shop.has(harness, dead=1, handled=3)
    assert (report.done, report.failed) == (2, 1)
    assert "no answer" in report.reasons["order-000001"]
    assert "no answer" in report.stopped


async def test_letters_that_were_taken_away_are_counted(harness: MemoryHarness) -> None:
    faults = Faults()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(3)])
        faults.add("settle", raising(lambda: SettlementLost("gone", count=2)), when=to("orders.dlq", Outcome.ACK))
        report = await harness.passing(shop.bus.dead_letters("orders").replay())
    assert (report.done, report.unsettled, report.complete) == (3, 2, False)


@pytest.mark.parametrize("lost_at", ["send", "settle"])
async def test_what_is_taken_away_comes_again_and_is_replayed_once(harness: MemoryHarness, lost_at: Kind) -> None:
    if harness.capabilities.positional:
        pytest.skip("a log takes away partitions, when others come")
    faults, held = Faults(), Hold(answer=lost_at == "send")
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(8)])
        faults.add(lost_at, held, when=to("orders") if lost_at == "send" else to("orders.dlq", Outcome.ACK))
        running = asyncio.create_task(shop.bus.dead_letters("orders").replay("id!~5"))
        await harness.until(held.reached.is_set, "it is replayed, and not acked yet")
        memory = innermost(shop.bus.driver)
        assert isinstance(memory, MemoryDriver)
        for subscription in memory._subscriptions:
            if isinstance(subscription, QueueSubscription) and subscription.source.name == "orders.dlq":
                subscription.expire(NEVER)
        held.release()
        report = await harness.passing(running)
        await shop.has(harness, dead=1, handled=7)
    assert (report.total, report.done, report.unsettled, report.stopped) == (8, 7, 0, "")
    assert set(shop.runs.values()) == {1}


async def test_a_broker_that_goes_away_ends_the_run_with_a_report(harness: MemoryHarness) -> None:
    faults, seen = Faults(), list[Report]()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(300)])
        faults.add("receive", raising(ConnectionLost), when=to("orders.dlq"), skip=1)
        with pytest.raises(ConnectionLost):
            await harness.passing(shop.bus.dead_letters("orders").replay(progress=seen.append))
        await shop.has(harness, dead=300 - seen[-1].done, handled=seen[-1].done)
        assert 0 < seen[-1].done < 300
        await harness.passing(shop.bus.dead_letters("orders").replay())
        await shop.has(harness, dead=0, handled=300)
    assert set(shop.runs.values()) == {1}


@pytest.mark.parametrize("killed_at", ["send", "settle"])
async def test_a_tool_that_is_killed_loses_nothing_and_repeats_what_was_in_flight(
    harness: MemoryHarness, killed_at: Kind
) -> None:
    shop, faults, held = Shop(harness), Faults(), Hold(answer=killed_at == "send")
    shop.mend()
    tool = harness.bus(faults=faults)
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(400)])
        async with harness.connected(tool):
            name = "orders" if killed_at == "send" else "orders.dlq"
            faults.add(killed_at, held, when=lambda call: call.name == name, skip=1)
            running = asyncio.create_task(tool.dead_letters("orders").replay("id!~7"))
            await harness.until(held.reached.is_set, "the second batch is replayed")
            await harness.abandon(tool)
            held.release()
            await harness.until(running.done, "the run has ended")
            assert running.exception() is not None or not running.result().complete
        await harness.passing(shop.bus.dead_letters("orders").replay("id!~7"))
        meant = {n for n in range(400) if "7" not in str(n)}
        await harness.until(lambda: set(shop.handled) == meant, "all are handled")
        await harness.silent()
        left = {int(one.body or b"") for one in await shop.bus.dead_letters("orders").browse(limit=None)}
    assert left == set(range(400)) - meant
    assert max(shop.runs.values()) <= 2
    assert sum(count == 2 for count in shop.runs.values()) <= 100, "a batch at most"


async def test_who_is_cancelled_ends_what_is_in_flight(harness: MemoryHarness) -> None:
    faults, hold = Faults(), Hold(answer=True)
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        messages = [letter(n, record()) for n in range(20)]
        await put(shop.bus.driver, Queue("orders.dlq"), messages)
        faults.add("send", hold, when=to("orders"))
        running = asyncio.create_task(shop.bus.dead_letters("orders").replay("id!~5"))
        await harness.until(hold.reached.is_set, "a replay is stored, and not confirmed yet")
        running.cancel()
        await harness.until(lambda: shop.handled.total() == 18, "they are handled")
        assert not running.done()
        hold.release()
        await harness.until(running.done, "it ends")
        assert running.cancelled()
        await shop.has(harness, dead=2, handled=18)
        await harness.passing(shop.bus.dead_letters("orders").replay())
        await shop.has(harness, dead=0, handled=20)
    assert set(shop.runs.values()) == {1}


async def test_what_stays_in_a_log_is_written_anew_before_the_position_moves(harness: MemoryHarness) -> None:
    if not harness.capabilities.positional:
        pytest.skip("letters are given back")
    faults = Faults()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(10)])
        faults.add("send", raising_after(ConnectionLost), when=to("orders.dlq"))
        with pytest.raises(ConnectionLost):
            await harness.passing(shop.bus.dead_letters("orders").replay("id~4"))
        left = {one.body for one in await harness.passing(shop.bus.dead_letters("orders").browse(limit=None))}
        assert left >= {str(n).encode() for n in range(10) if n != 4}, "written twice perhaps, and none lost"


async def test_the_mark_of_a_run_never_keeps_a_letter_from_fitting() -> None:
    """A record is cut until the message fits to the byte: what stays is written anew without the mark, then."""
    faults = Faults()
    bus = Bus("memory://?model=log", connect=faults.connect(registry.connect))
    async with bus:
        await put(bus.driver, Queue("orders"), [])
        await put(bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(4)])
        faults.add("send", full, when=to("orders.dlq"), times=None)
        report = await bus.dead_letters("orders").replay("id~2")
        assert (report.done, report.unmatched) == (1, 3)
        left = await bus.dead_letters("orders").browse()
        assert {one.body for one in left} == {b"0", b"1", b"3"}


async def full(call: Call, proceed: Proceed) -> None:
    """A broker that has room for letters as they were, and for no more."""
    large = {index: MessageTooLarge(1, 0) for index, one in enumerate(call.items) if "unibusrun" in one.attributes}
    if large:
        raise BatchError(large)
    await proceed(call.items)


@pytest.mark.parametrize("seed", range(12))
async def test_books_balance_while_all_goes_on_at_once(harness: MemoryHarness, seed: int) -> None:
    """Replays of a part, and another, and purges, while new letters come and old ones fail again."""
    rng = random.Random(seed)
    shop = Shop(harness)
    purged: set[int] = set()
    async with harness.running(shop.bus):
        box = shop.bus.dead_letters("orders")
        count = 0
        for _ in range(rng.randint(3, 6)):
            new = range(count, count + rng.randint(0, 60))
            count += len(new)
            keys = rng.choice([None, lambda n: f"k{n % 5}"])
            shop.broken = None if rng.random() < 0.5 else {n for n in range(count) if rng.random() < 0.5}
            sending = asyncio.create_task(shop.bus.producer("orders").send_many(new, key=keys))
            where = rng.choice([None, "id~a", f"reason~order {rng.randint(0, 9)}", "replays<2"])
            rate = rng.choice([None, 1, 40])
            before = set(shop.handled)
            if rng.random() < 0.2:
                report = await harness.passing(box.purge(where))
                await harness.passing(sending)
                await harness.silent()
                left = [int(one.body or b"") for one in await box.browse(limit=None)]
                gone = set(range(count)) - set(left) - set(shop.handled) - purged
                assert len(gone) == report.done
                purged |= gone
            else:
                await harness.passing(box.replay(where, rate=rate, limit=rng.choice([None, 7]), force=True))
            await harness.passing(sending)
            await harness.silent()
            assert before <= set(shop.handled)
        left = [int(one.body or b"") for one in await box.browse(limit=None)]
    assert len(left) == len(set(left))
    assert sorted([*left, *shop.handled, *purged]) == list(range(count))
    assert set(shop.handled.values()) <= {1}, "no effect twice"

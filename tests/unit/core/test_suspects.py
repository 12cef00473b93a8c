"""Suspects: what may have killed a process is handled alone, and convicted by its count alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.unit.core.orders import Order
from tests.unit.core.recount import opened, settled
from unibus import Bus, Message, Queue, registry
from unibus import attributes as names
from unibus.driver import Delivery, Depth, Outbound, Outcome, TopicSubscription, Topology
from unibus.errors import ConnectionLost
from unibus.memory import MemoryDriver
from unibus.memory.alarm import NEVER
from unibus.memory.queue_subscription import QueueSubscription
from unibus.testing.faults import Faults, Hold


async def test_suspects_are_handled_one_by_one_with_nothing_beside_them() -> None:
    bus = Bus()
    held: list[tuple[int, int, bool]] = []

    @bus.consumer("orders", concurrency=5)
    async def handle(order: Order, message: Message[Order]) -> None:
        (consumer,) = bus.session.consumers
        alone = "unibusalone" in message.attributes
        await asyncio.sleep(0)
        held.append((order.id, len(consumer.held), alone))

    counts: dict[str, int] = {}
    clock, driver = await opened(bus, counts)
    ids = [await bus.producer("orders").send(Order(id=number)) for number in range(10)]
    counts.update(dict.fromkeys(ids[2:5], 3))  # three were delivered for the third time
    async with bus.consuming():
        await settled(bus, clock)
        assert bus.stats()["orders"].suspects == 3
    await bus.__aexit__(None, None, None)
    assert sorted(number for number, _, _ in held) == list(range(10))
    assert {number for number, _, alone in held if alone} == {2, 3, 4}
    assert all(count == 1 for _, count, alone in held if alone)
    assert next(outcome for message_id, outcome in driver.settled if message_id == ids[3]) is Outcome.ACK


async def test_a_marked_message_is_convicted_at_its_third_delivery_before_it_runs() -> None:
    bus = Bus()
    runs: list[int] = []

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        runs.append(order.id)

    @bus.consumer("orders.dlq")
    async def bury(order: Order, message: Message[Order]) -> None:
        assert message.dead_letter is not None
        reasons.append((order.id, message.dead_letter.error_type, message.dead_letter.reason))

    reasons: list[tuple[int, str, str]] = []
    counts: dict[str, int] = {}
    clock, _ = await opened(bus, counts)
    queue = bus.session.sender_for(Queue("orders"))
    for number, count in ((1, 2), (2, 3), (3, 1)):
        counts[str(number)] = count
        attributes = {"unibusalone": "1"}
        future = queue.send(Outbound(b'{"id":%d}' % number, attributes, {}, None, str(number)))
        await future
        counts[str(number)] = count
    async with bus.consuming():
        await settled(bus, clock)
    await bus.__aexit__(None, None, None)
    assert sorted(runs) == [1, 3]
    ((number, error, reason),) = reasons
    assert (number, error) == (2, "unibus.errors.Crashed")
    assert "its delivery 3" in reason


async def test_a_marked_message_that_comes_beside_running_ones_starts_afresh() -> None:
    bus = Bus()
    go = asyncio.Event()
    runs: list[tuple[int, int]] = []

    @bus.consumer("orders", concurrency=2, prefetch=2)
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append((order.id, len(bus.session.consumers[0].held)))
        if order.id == 1:
            await go.wait()

    counts: dict[str, int] = {}
    clock, _ = await opened(bus, counts)
    async with bus.consuming():
        await bus.producer("orders").send(Order(id=1))
        await clock.quiet()
        counts["m"] = 2
        sender = bus.session.sender_for(Queue("orders"))
        sending = sender.send(Outbound(b'{"id":2}', {"unibusalone": "1"}, {}, None, "m"))
        await sending
        counts.setdefault("m", 2)
        await clock.quiet()
        assert [number for number, _ in runs] == [1]
        go.set()
        await settled(bus, clock)
    await bus.__aexit__(None, None, None)
    assert runs[-1] == (2, 1)


async def test_on_an_ordered_address_a_suspect_stays_in_place_and_is_convicted_there() -> None:
    bus = Bus()
    runs: list[int] = []

    @bus.consumer(Queue("orders", ordering="key"))
    async def handle(order: Order) -> None:
        runs.append(order.id)

    counts: dict[str, int] = {}
    clock, _ = await opened(bus, counts)
    ids = [await bus.producer("orders").send(Order(id=number), key="k") for number in range(6)]
    counts.update({ids[0]: 3, ids[1]: 5, ids[2]: 6})
    async with bus.consuming():
        assert bus.session.consumers[0].suspects.single_only
        await settled(bus, clock)
        assert not bus.session.consumers[0].suspects.single_only
        assert (bus.stats()["orders"].dead_lettered, bus.stats()["orders"].suspects) == (1, 0)
    await bus.__aexit__(None, None, None)
    assert runs == [0, 1, 3, 4, 5]


@pytest.mark.parametrize(("count", "resent"), [(1, 0), (2, 1)])
async def test_a_marked_message_among_others_waits_for_those_that_run_and_they_go_back_that_do_not(
    count: int, resent: int
) -> None:
    bus = Bus()
    go = asyncio.Event()
    runs: list[tuple[int, int]] = []

    @bus.consumer("orders", concurrency=1, prefetch=40)
    async def handle(order: Order) -> None:
        runs.append((order.id, len(bus.session.consumers[0].held)))
        if order.id == 1:
            await go.wait()

    counts: dict[str, int] = {}
    clock, driver = await opened(bus, counts)
    async with bus.consuming():
        await bus.producer("orders").send_many([Order(id=number) for number in (1, 2, 3)])
        await clock.quiet()
        assert [number for number, _ in runs] == [1]
        sender = bus.session.sender_for(Queue("orders"))
        # In one call, so that they come in one batch.
        marked = Outbound(b'{"id":9}', {"unibusalone": "1"}, {}, None, "marked")
        plain = Outbound(b'{"id":4}', {}, {}, None, "plain")
        driver.count_once_sent["marked"] = count
        assert await sender.send_chunk([marked, plain]) == {}
        await clock.quiet()
        stats = bus.stats()["orders"]
        assert [number for number, _ in runs] == [1]
        assert stats.given_back == 3  # 2, 3 and 4, which had not started
        assert stats.suspects == resent
        go.set()
        await settled(bus, clock)
    await bus.__aexit__(None, None, None)
    assert sorted(number for number, _ in runs) == [1, 2, 3, 4, 9]
    assert dict(runs)[9] == 1
    if not resent:
        assert [number for number, _ in runs] == [1, 9, 2, 3, 4]


async def test_a_suspect_that_cannot_be_resent_waits_and_is_not_handled_beside_others() -> None:
    bus = Bus()
    runs: list[tuple[int, bool]] = []

    @bus.consumer("orders")
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append((order.id, "unibusalone" in message.attributes))

    counts: dict[str, int] = {}
    clock, driver = await opened(bus, counts)
    ids = [await bus.producer("orders").send(Order(id=number)) for number in range(3)]
    counts[ids[1]] = 3
    driver.fail_sends = 2
    async with bus.consuming():
        await settled(bus, clock)
        assert (bus.stats()["orders"].send_failures, bus.stats()["orders"].suspects) == (2, 1)
    await bus.__aexit__(None, None, None)
    assert sorted(runs) == [(0, False), (1, True), (2, False)]


async def test_what_was_fetched_when_suspects_cannot_be_sorted_goes_back_and_is_handled() -> None:
    bus = Bus()
    runs: list[int] = []

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        runs.append(order.id)

    counts: dict[str, int] = {}
    clock, _ = await opened(bus, counts)
    ids = [await bus.producer("orders").send(Order(id=number)) for number in range(3)]
    counts[ids[1]] = 3
    async with bus.consuming():
        (consumer,) = bus.session.consumers
        sort = consumer.suspects.sort

        async def fail_once(batch: Sequence[Delivery]) -> Sequence[Delivery]:
            consumer.suspects.sort = sort  # type: ignore[method-assign]
            raise ConnectionLost("cut while the push was narrowed")

        consumer.suspects.sort = fail_once  # type: ignore[method-assign]
        await settled(bus, clock)
    await bus.__aexit__(None, None, None)
    assert sorted(runs) == [0, 1, 2]


async def test_a_marked_message_that_was_acked_is_not_sent_again_as_the_pull_ends() -> None:
    """It is in hand until the broker has heard of the ack, which takes its time."""
    faults, slow, queue = Faults(), Hold(), Queue("orders")
    bus = Bus("memory://", connect=faults.connect(registry.connect))
    faults.add("settle", slow)
    async with bus:
        await bus.session.driver.declare(Topology(create=(queue, queue.dead_letters)))
        await bus.session.driver.send(queue, [Outbound(b"1", {names.ALONE: "1"}, {}, None, "marked")])
        async with bus.pull(queue="orders", type=int) as deliveries:
            delivery = await deliveries.next()
            assert delivery is not None
            await delivery.ack()
            await slow.reached.wait()
            asyncio.get_running_loop().call_later(0.05, slow.release)
        assert await bus.depth(queue) == Depth(ready=0, in_flight=0, delayed=0)


async def test_a_suspect_that_is_taken_away_while_we_live_is_no_killer() -> None:
    """Lost twice in hand, with the connection say, it comes for the third time: the count alone would convict it."""
    runs, bus = list[int](), Bus("memory://")
    queue = Queue("orders")

    @bus.consumer(queue)
    async def handle(number: int, message: Message[int]) -> None:
        runs.append(message.delivery.deliveries or 0)
        if len(runs) <= 2:
            await asyncio.Event().wait()

    async with bus.consuming():
        driver = bus.session.driver
        assert isinstance(driver, MemoryDriver)
        await driver.send(queue, [Outbound(b"1", {names.ALONE: "1"}, {}, None, "marked")])
        for number in (1, 2):
            while len(runs) < number:
                await asyncio.sleep(0.001)
            for subscription in list(driver._subscriptions):
                assert isinstance(subscription, QueueSubscription)
                subscription.expire(NEVER)
        while len(runs) < 3:
            await asyncio.sleep(0.001)
        stats = bus.stats()["orders"]
        assert (stats.dead_lettered, stats.suspects, stats.lost) == (0, 2, 2)
    assert runs == [1, 1, 1], "re-sent, so that its count starts again"


async def test_what_matches_no_pattern_is_handled_by_nobody_even_as_a_suspect() -> None:
    """Its third delivery makes it a suspect, which would be re-sent, and be ours whatever its topic."""
    runs, bus = list[int](), Bus("memory://")
    source = TopicSubscription(("b.*",), "group")

    @bus.subscriber("b.*", group="group")
    async def handle(number: int) -> None:
        runs.append(number)

    clock, driver = await opened(bus, {})
    driver.count_once_sent["stale"] = 3
    async with bus.consuming():
        await bus.session.driver.send(source, [Outbound(b"1", {}, {}, None, "stale", topic="a.x")])
        await settled(bus, clock)
        stats = bus.stats()["group"]
        assert (runs, stats.dead_lettered, stats.suspects) == ([], 1, 0)
    await bus.__aexit__(None, None, None)

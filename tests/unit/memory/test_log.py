"""The log model: partitions, offsets, the low-water mark."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.memory.tools import QUEUE, Events, World, create, ids, now, out, outs
from unibus.driver import Outcome, Queue, Topic, TopicSubscription, Topology
from unibus.errors import ConfigurationError, TopologyMismatch
from unibus.memory import MemoryDriver
from unibus.memory.log_broker import LogBroker
from unibus.memory.subscription import MemorySubscription

ONE = "memory://?model=log&partitions=1"
GROUP = TopicSubscription(("order.*",), group="email")
EARLIEST = TopicSubscription(("order.*",), group="late", start="earliest")


async def consuming(
    world: World, events: Events, url: str = ONE, queue: Queue = QUEUE
) -> tuple[MemoryDriver, MemorySubscription]:
    driver = await world.driver(url)
    await driver.declare(create(queue))
    return driver, await driver.subscribe(queue, prefetch=100, notify=events)


def broker(driver: MemoryDriver) -> LogBroker:
    assert isinstance(driver._broker, LogBroker)
    return driver._broker


def stored(driver: MemoryDriver, name: str) -> list[int]:
    return [len(partition.records) for partition in broker(driver)._logs[name].partitions]


async def test_only_the_contiguous_prefix_is_committed(world: World, events: Events) -> None:
    driver, first = await consuming(world, events)
    await driver.send(QUEUE, outs(1, 2, 3, 4))
    a, b, _, d = await first.receive(10, 0)
    await first.settle([b, d], Outcome.ACK)
    [cursor] = broker(driver)._groups["orders"].cursors
    assert cursor.committed == 0
    await first.settle([a], Outcome.REJECT)
    assert cursor.committed == 2
    await first.close()
    second = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    again = await second.receive(10, 0)
    assert [(d.message_id, d.redelivered, d.deliveries) for d in again] == [("3", True, None), ("4", True, None)]


async def test_a_nack_holds_the_mark_and_is_handed_out_again(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, events)
    await driver.send(QUEUE, outs(1, 2))
    a, b = await subscription.receive(10, 0)
    await subscription.settle([a], Outcome.NACK)
    await subscription.settle([b], Outcome.ACK)
    [cursor] = broker(driver)._groups["orders"].cursors
    assert cursor.committed == 0
    await subscription.settle(await subscription.receive(10, 0), Outcome.ACK)
    assert cursor.committed == 2


async def test_a_nack_for_later_does_not_hold_up_an_unordered_partition(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, events)
    await driver.send(QUEUE, outs(1, 2, key="k"))
    await subscription.settle(await subscription.receive(1, 0), Outcome.NACK, delay=10)
    assert await now(subscription) == ["2"]


async def test_a_nack_for_later_holds_up_an_ordered_partition(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, events, ONE, Queue("orders", ordering="key"))
    queue = Queue("orders", ordering="key")
    await driver.send(queue, outs(1, 2, 3, key="k"))
    one, two = await subscription.receive(2, 0)
    await subscription.settle([one], Outcome.NACK, delay=10)
    await subscription.settle([two], Outcome.NACK)
    assert await now(subscription) == []
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.advance(10)
    assert ids(waiting.result()) == ["1", "2", "3"]


async def test_a_key_keeps_its_partition_and_others_take_turns(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, events, "memory://?model=log", QUEUE)
    await driver.send(QUEUE, outs(*range(8)))
    assert stored(driver, "orders") == [2, 2, 2, 2]
    await driver.send(QUEUE, outs(*range(10), key="k"))
    assert sorted(stored(driver, "orders")) == [2, 2, 2, 12]
    keyed = [d.message_id for d in await subscription.receive(100, 0) if d.key == "k"]
    assert keyed == [str(n) for n in range(10)]


async def test_an_address_may_say_how_many_partitions(world: World, events: Events) -> None:
    driver, _ = await consuming(world, events, "memory://?model=log", Queue("orders", partitions=7))
    assert len(stored(driver, "orders")) == 7
    await driver.declare(create(Topic("order.made", partitions=3)))
    assert len(stored(driver, "order.made")) == 3
    await driver.send(Topic("order.paid", partitions=2), outs(1))
    assert len(stored(driver, "order.paid")) == 2
    for topology in (create(Topic("order.made", partitions=4)), Topology(verify=(Topic("order.made", partitions=4),))):
        with pytest.raises(TopologyMismatch, match="partitions=3, not partitions=4"):
            await driver.declare(topology)


async def test_a_full_partition_does_not_starve_the_others(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, events, "memory://?model=log&partitions=2", QUEUE)
    await driver.send(QUEUE, outs(*range(100), key="hot"))
    await driver.send(QUEUE, outs("x", "y"))
    seen = [*await now(subscription, 5), *await now(subscription, 5)]
    assert {"x", "y"} & set(seen)


async def test_a_queue_and_a_topic_of_one_name_are_refused(world: World) -> None:
    driver = await world.driver(ONE)
    await driver.declare(create(QUEUE))
    for attempt in (
        lambda: driver.declare(create(Topic("orders"))),
        lambda: driver.send(Topic("orders"), outs(1)),
        lambda: driver.send(Topic("a"), [out(1, topic="a"), out(2, topic="orders")]),
        lambda: driver.declare(Topology(verify=(Topic("orders"),))),
    ):
        with pytest.raises(ConfigurationError, match="'orders' is a queue"):
            await attempt()  # type: ignore[no-untyped-call]
    await driver.send(Topic("order.made"), outs(1))
    with pytest.raises(ConfigurationError, match=r"'order\.made' is a topic"):
        await driver.declare(create(Queue("order.made")))


async def test_start_earliest_reads_what_is_kept(world: World, events: Events) -> None:
    driver = await world.driver(ONE)
    await driver.send(Topic("order.made"), outs(1, 2))
    await driver.declare(create(EARLIEST))
    subscription = await driver.subscribe(EARLIEST, prefetch=10, notify=events)
    assert [(d.message_id, d.redelivered) for d in await subscription.receive(10, 0)] == [
        ("1", False),
        ("2", False),
    ]


async def test_a_queue_log_keeps_nothing_that_is_committed(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, events)
    await driver.send(QUEUE, outs(1, 2, 3))
    a, b, c = await subscription.receive(10, 0)
    await subscription.settle([a, c], Outcome.ACK)
    assert stored(driver, "orders") == [2]
    await subscription.settle([b], Outcome.ACK)
    assert stored(driver, "orders") == [0]
    [cursor] = broker(driver)._groups["orders"].cursors
    assert cursor._done == set()


async def test_a_topic_keeps_its_retention_behind_the_slowest_group(world: World, events: Events) -> None:
    driver = await world.driver(ONE + "&retention=5")
    topic = Topic("order.made")
    await driver.send(topic, outs(*range(20)))
    assert stored(driver, "order.made") == [5]
    slow = TopicSubscription(("order.*",), group="slow")
    await driver.declare(create(GROUP, slow))
    await driver.send(topic, outs(*range(20)))
    assert stored(driver, "order.made") == [25]
    fast = await driver.subscribe(GROUP, prefetch=100, notify=events)
    await fast.settle(await fast.receive(100, 0), Outcome.ACK)
    assert stored(driver, "order.made") == [25]
    slowly = await driver.subscribe(slow, prefetch=100, notify=events)
    await slowly.settle(await slowly.receive(10, 0), Outcome.ACK)
    assert stored(driver, "order.made") == [15]
    await slowly.settle(await slowly.receive(100, 0), Outcome.ACK)
    assert stored(driver, "order.made") == [5]


async def test_an_ephemeral_reader_holds_the_log_until_it_leaves(world: World, events: Events) -> None:
    driver = await world.driver(ONE + "&retention=0")
    source = TopicSubscription(("order.*",))
    subscription = await driver.subscribe(source, prefetch=100, notify=events)
    await driver.send(Topic("order.made"), outs(1, 2))
    assert stored(driver, "order.made") == [2]
    assert await now(subscription) == ["1", "2"]
    await subscription.close()
    assert stored(driver, "order.made") == [0]


async def test_browse_of_a_group_is_its_backlog_and_without_a_group_all(world: World, events: Events) -> None:
    driver = await world.driver("memory://?model=log&partitions=2")
    await driver.declare(create(GROUP))
    subscription = await driver.subscribe(GROUP, prefetch=100, notify=events)
    await driver.send(Topic("order.made"), outs(1, 2, 3, 4))
    await driver.send(Topic("order.paid"), outs(5, 6))
    await driver.send(GROUP, [out(7, topic="order.paid")])
    held = [d for d in await subscription.receive(100, 0) if d.message_id in ("2", "4", "6")]
    await subscription.settle(held, Outcome.ACK)

    async def pages(source: TopicSubscription) -> list[str]:
        seen: list[str] = []
        cursor = None
        while True:
            page, cursor = await driver.browse(source, cursor, 2)
            assert len(page) <= 2
            seen += ids(page)
            if cursor is None:
                return seen

    assert sorted(await pages(GROUP)) == ["1", "3", "5", "7"]
    assert sorted(await pages(TopicSubscription(("order.*",)))) == ["1", "2", "3", "4", "5", "6"]


async def test_patterns_that_are_dropped_lose_what_is_in_flight(world: World, events: Events) -> None:
    driver = await world.driver(ONE)
    await driver.declare(create(GROUP))
    subscription = await driver.subscribe(GROUP, prefetch=100, notify=events)
    await driver.send(Topic("order.made"), outs(1))
    assert await now(subscription) == ["1"]
    await driver.declare(create(TopicSubscription(("user.*",), group="email")))
    assert events.lost == ["1"]


async def test_a_nack_timer_is_not_needed_after_the_partition_left(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, events)
    await driver.send(QUEUE, outs(1))
    await subscription.settle(await subscription.receive(1, 0), Outcome.NACK, delay=100)
    assert world.clock.next_due() is not None
    await subscription.close()
    assert world.clock.next_due() is None

"""Receiving, whatever the model: in order, never more than asked, and each waiting call in turn."""

from __future__ import annotations

import asyncio
import contextlib
import math

import pytest

from tests.unit.memory.tools import QUEUE, Events, World, create, ids, now, outs
from unibus.driver import LeaseExtender, Outcome
from unibus.testing.clock import MovableClock


async def test_receive_returns_in_order_and_never_more_than_asked(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=100, notify=events)
    await driver.send(QUEUE, outs(1, 2, 3, 4, 5))
    assert await now(subscription, 2) == ["1", "2"]
    assert await now(subscription, 2) == ["3", "4"]
    assert await now(subscription, 2) == ["5"]
    assert await now(subscription, 2) == []


async def test_unsettled_deliveries_never_exceed_the_prefetch(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=2, notify=events)
    await driver.send(QUEUE, outs(1, 2, 3))
    held = await subscription.receive(10, 0)
    assert ids(held) == ["1", "2"]
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.advance(1)
    assert not waiting.done()
    await subscription.settle(held[:1], Outcome.ACK)
    assert ids(await waiting) == ["3"]


async def test_receive_waits_for_a_message(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=2, notify=events)
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.advance(59)
    assert not waiting.done()
    await driver.send(QUEUE, outs(1))
    await world.clock.quiet()
    assert ids(waiting.result()) == ["1"]


async def test_receive_is_empty_after_max_wait_and_not_before(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=2, notify=events)
    waiting = asyncio.create_task(subscription.receive(10, 5))
    await world.clock.advance(4.999)
    assert not waiting.done()
    await world.clock.advance(0.001)
    assert list(waiting.result()) == []


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_receive_loses_nothing(world: World, url: str, events: Events, turns: int) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.quiet()
    await driver.send(QUEUE, outs(1, 2))
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    got: list[str] = []
    with contextlib.suppress(asyncio.CancelledError):
        got += ids(await waiting)
    assert got + await now(subscription) == ["1", "2"]


async def test_one_receive_at_a_time(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    waiting = asyncio.create_task(subscription.receive(10, 5))
    await world.clock.quiet()
    with pytest.raises(RuntimeError, match="one at a time"):
        await subscription.receive(10, 5)
    await world.clock.advance(5)
    await waiting


async def test_a_waiting_subscription_is_not_starved(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url.replace("partitions=1", "partitions=2"))
    await driver.declare(create(QUEUE))
    subscriptions = [await driver.subscribe(QUEUE, prefetch=10, notify=events) for _ in range(2)]
    counts = [0, 0]

    async def consume(n: int) -> None:
        while sum(counts) < 200:
            batch = await subscriptions[n].receive(1, 1)
            await subscriptions[n].settle(batch, Outcome.ACK)
            counts[n] += len(batch)

    await driver.send(QUEUE, outs(*range(200)))
    tasks = [asyncio.create_task(consume(n)) for n in range(2)]
    await world.clock.advance(0)
    await world.clock.advance(2)
    await asyncio.gather(*tasks)
    assert min(counts) >= 90


async def test_capabilities_match_the_subscription(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    if driver.capabilities.lease is not None:
        assert isinstance(subscription, LeaseExtender)
    assert driver.capabilities.lease != math.inf


async def test_competing_receives_each_get_one(clock: MovableClock, world: World, events: Events) -> None:
    driver = await world.driver()
    await driver.declare(create(QUEUE))
    subscriptions = [await driver.subscribe(QUEUE, prefetch=10, notify=events) for _ in range(3)]
    waiting = [asyncio.create_task(s.receive(1, 60)) for s in subscriptions]
    await clock.quiet()
    await driver.send(QUEUE, outs(1, 2))
    await clock.quiet()
    assert [ids(task.result()) for task in waiting[:2]] == [["1"], ["2"]]
    assert not waiting[2].done()
    await driver.send(QUEUE, outs(3))
    assert ids(await waiting[2]) == ["3"]


async def test_a_wake_up_that_is_cancelled_goes_to_the_next(clock: MovableClock, world: World, events: Events) -> None:
    driver = await world.driver()
    await driver.declare(create(QUEUE))
    first, second = [await driver.subscribe(QUEUE, prefetch=10, notify=events) for _ in range(2)]
    cancelled = asyncio.create_task(first.receive(1, 60))
    await clock.quiet()
    waiting = asyncio.create_task(second.receive(1, 60))
    await clock.quiet()
    await driver.send(QUEUE, outs(1))
    cancelled.cancel()
    await clock.quiet()
    assert cancelled.cancelled()
    assert ids(waiting.result()) == ["1"]


async def test_a_full_subscription_does_not_stand_in_the_way(clock: MovableClock, world: World, events: Events) -> None:
    driver = await world.driver()
    await driver.declare(create(QUEUE))
    full = await driver.subscribe(QUEUE, prefetch=1, notify=events)
    free = await driver.subscribe(QUEUE, prefetch=1, notify=events)
    await driver.send(QUEUE, outs(1))
    await full.receive(1, 0)
    stuck = asyncio.create_task(full.receive(1, 5))
    await clock.quiet()
    waiting = asyncio.create_task(free.receive(1, 5))
    await clock.quiet()
    await driver.send(QUEUE, outs(2))
    await clock.quiet()
    assert ids(waiting.result()) == ["2"]
    await clock.advance(5)
    assert list(stuck.result()) == []

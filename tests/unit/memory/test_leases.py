"""Leases of the queue model."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.memory.tools import QUEUE, Events, World, create, ids, now, outs
from unibus.driver import Delivery, Lost, Outcome
from unibus.errors import SettlementLost
from unibus.memory import MemoryDriver
from unibus.memory.subscription import MemorySubscription


async def consuming(
    world: World, query: str, events: Events, prefetch: int = 10
) -> tuple[MemoryDriver, MemorySubscription]:
    driver = await world.driver(f"memory://{query}")
    await driver.declare(create(QUEUE))
    return driver, await driver.subscribe(QUEUE, prefetch=prefetch, notify=events)


async def test_a_lease_that_ends_gives_back_and_tells(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, "?lease=30", events)
    await driver.send(QUEUE, outs(1, 2))
    held = await subscription.receive(10, 0)
    assert [delivery.deliveries for delivery in held] == [1, 1]
    await subscription.settle(held[1:], Outcome.ACK)
    await world.clock.advance(29.9)
    assert events == []
    await world.clock.advance(0.1)
    assert events == [Lost([held[0]])]
    [again] = await subscription.receive(10, 0)
    assert (again.message_id, again.deliveries, again.redelivered) == ("1", 2, True)


async def test_a_stale_delivery_cannot_be_settled_and_the_others_are(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, "?lease=30", events)
    other = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1))
    stale = await subscription.receive(10, 0)
    await world.clock.advance(30)
    taken = await other.receive(10, 0)
    await driver.send(QUEUE, outs(2))
    fresh = await subscription.receive(10, 0)
    for outcome in (Outcome.ACK, Outcome.NACK):
        with pytest.raises(SettlementLost, match=r"1 of"):
            await subscription.settle([*stale, *fresh], outcome)
    depth = await driver.depth(QUEUE)
    assert (depth.ready, depth.in_flight) == (0, 1)
    await other.settle(taken, Outcome.ACK)
    with pytest.raises(SettlementLost):
        await other.settle(fresh, Outcome.ACK)


async def test_an_ended_lease_wakes_whoever_waits(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, "?lease=30", events)
    other = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1))
    await subscription.receive(10, 0)
    waiting = asyncio.create_task(other.receive(10, 60))
    await world.clock.advance(30)
    assert ids(waiting.result()) == ["1"]


async def test_a_full_subscription_may_receive_again_after_a_loss(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, "?lease=30", events, prefetch=1)
    await driver.send(QUEUE, outs(1))
    await subscription.receive(10, 0)
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.advance(30)
    assert ids(waiting.result()) == ["1"]


async def test_extending_holds_for_an_hour(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, "?lease=30", events)
    await driver.send(QUEUE, outs(1, 2, 3))
    held = list(await subscription.receive(10, 0))

    async def renew() -> None:
        while True:
            await world.clock.sleep(10)
            await subscription.extend(held[:2], 30)

    renewing = asyncio.create_task(renew())
    await world.clock.advance(3600)
    renewing.cancel()
    assert events.lost == ["3"]
    await subscription.settle(held[:1], Outcome.ACK)
    await world.clock.advance(31)
    assert events.lost == ["3", "2"]


async def test_extending_may_shorten_and_needs_no_order(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, "?lease=30", events)
    await driver.send(QUEUE, outs(1, 2, 3))
    a, b, c = await subscription.receive(10, 0)
    await subscription.extend([c], 100)
    await subscription.extend([b], 5)
    await world.clock.advance(5)
    assert events.lost == ["2"]
    await world.clock.advance(25)
    assert events.lost == ["2", "1"]
    await world.clock.advance(70)
    assert events.lost == ["2", "1", "3"]
    await subscription.extend([a, b, c], 5)
    assert (await driver.depth(QUEUE)).in_flight == 0


async def test_hold_ends_what_is_extended_for_ever(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, "?lease=30&hold=45", events)
    await driver.send(QUEUE, outs(1))
    held = await subscription.receive(10, 0)
    await world.clock.advance(20)
    await subscription.extend(held, 30)
    await world.clock.advance(24)
    await subscription.extend(held, 30)
    assert events.lost == []
    await world.clock.advance(1)
    assert events.lost == ["1"]


async def test_hold_works_without_leases(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, "?lease=0&hold=45", events)
    await driver.send(QUEUE, outs(1))
    await subscription.receive(10, 0)
    await world.clock.advance(44)
    assert events.lost == []
    await world.clock.advance(1)
    assert events.lost == ["1"]


async def test_without_leases_a_delivery_is_held_for_ever(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, "?lease=0", events)
    await driver.send(QUEUE, outs(1))
    held = await subscription.receive(10, 0)
    await subscription.extend(held, 1)
    assert world.clock.next_due() is None
    await world.clock.advance(1_000_000)
    await subscription.settle(held, Outcome.ACK)
    assert events == []


async def test_one_timer_a_queue_and_none_when_nothing_is_held(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, "?lease=30", events)
    held: list[Delivery] = []
    for n in range(5):
        await driver.send(QUEUE, outs(n))
        held += await subscription.receive(10, 0)
        await world.clock.advance(1)
    assert len([timer for _, _, timer in world.clock._timers if not timer.cancelled]) == 1
    await subscription.settle(held, Outcome.ACK)
    assert world.clock.next_due() is None


async def test_every_hand_out_counts(world: World, events: Events) -> None:
    driver, subscription = await consuming(world, "", events)
    await driver.send(QUEUE, outs(1))
    counts = []
    for _ in range(3):
        [delivery] = await subscription.receive(10, 0)
        counts.append(delivery.deliveries)
        await subscription.settle([delivery], Outcome.NACK)
    assert counts == [1, 2, 3]
    assert await now(subscription) == ["1"]

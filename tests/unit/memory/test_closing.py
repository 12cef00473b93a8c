"""Ends, whatever the model: a subscription or a driver that is closed, or that vanishes."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.memory.tools import QUEUE, Events, World, create, now, outs
from unibus.driver import Outcome, TopicSubscription
from unibus.errors import ConnectionLost, DestinationNotFound, NotOpen, SettlementLost


async def test_close_gives_back_in_order(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    first = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1, 2, 3, 4))
    held = await first.receive(3, 0)
    await first.close()
    await first.close()
    assert events == []
    second = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    assert await now(second) == ["1", "2", "3", "4"]
    with pytest.raises(SettlementLost):
        await first.settle(held, Outcome.ACK)
    with pytest.raises(NotOpen):
        await first.receive(1, 0)


async def test_close_ends_a_waiting_receive(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    waiting = asyncio.create_task(subscription.receive(1, 60))
    await world.clock.quiet()
    await subscription.close()
    assert list(await waiting) == []


async def test_the_driver_is_usable_only_while_open(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.close()
    await driver.close()
    for call in (
        lambda: driver.send(QUEUE, outs(1)),
        lambda: driver.declare(create(QUEUE)),
        lambda: driver.depth(QUEUE),
        lambda: driver.subscribe(QUEUE, prefetch=1, notify=events),
        lambda: driver.browse(QUEUE, None, 1),
        lambda: subscription.receive(1, 0),
    ):
        with pytest.raises(NotOpen):
            await call()


async def test_a_vanished_driver_looks_like_a_killed_process(world: World, url: str, events: Events) -> None:
    shared = url.replace("memory://", "memory://shared")
    victim, survivor = await world.driver(shared), await world.driver(shared)
    await victim.declare(create(QUEUE))
    subscription = await victim.subscribe(QUEUE, prefetch=3, notify=events)
    ephemeral = await victim.subscribe(TopicSubscription(("a.b",)), prefetch=3, notify=events)
    await survivor.send(QUEUE, outs(1, 2, 3, 4))
    held = await subscription.receive(3, 0)
    await subscription.settle(held[:1], Outcome.ACK)
    pending = asyncio.create_task(ephemeral.receive(10, 60))
    await world.clock.quiet()

    victim.vanish()

    with pytest.raises(ConnectionLost):
        await pending
    for call in (
        lambda: victim.send(QUEUE, outs(1)),
        lambda: victim.depth(QUEUE),
        lambda: subscription.receive(1, 0),
        lambda: subscription.settle(held, Outcome.ACK),
        lambda: subscription.extend(held, 1),
    ):
        with pytest.raises(ConnectionLost):
            await call()
    assert events == []
    await subscription.close()
    with pytest.raises(DestinationNotFound):
        await survivor.depth(TopicSubscription(("a.b",)))
    heir = await survivor.subscribe(QUEUE, prefetch=10, notify=events)
    assert await now(heir) == ["2", "3", "4"]

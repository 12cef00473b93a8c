"""Browse and depth, whatever the model: what they show, without taking it in hand."""

from __future__ import annotations

from tests.unit.memory.tools import QUEUE, Events, World, create, ids, out, outs
from unibus.driver import Browser, Outcome


async def test_browse_shows_pages_without_side_effects(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    assert isinstance(driver, Browser)
    await driver.declare(create(QUEUE))
    await driver.send(QUEUE, [*outs(1, 2, 3, 4, 5), out("later", delay=5)])
    pages, cursor = [], None
    for _ in range(3):
        page, cursor = await driver.browse(QUEUE, cursor, 2)
        pages.append(ids(page))
    assert (pages, cursor) == ([["1", "2"], ["3", "4"], ["5"]], None)
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    held = await subscription.receive(10, 0)
    assert [delivery.redelivered for delivery in held] == [False] * 5
    await subscription.settle(held[:2], Outcome.NACK)
    await subscription.settle(held[2:], Outcome.ACK)
    page, _ = await driver.browse(QUEUE, None, 2)
    assert ids(page) == ["1", "2"]


async def test_depth(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    empty = await driver.depth(QUEUE)
    assert (empty.ready, empty.in_flight, empty.delayed, empty.oldest_age) == (0, 0, 0, None)
    await driver.send(QUEUE, outs(1, 2))
    await world.clock.advance(3)
    await driver.send(QUEUE, [out(3), out(4, delay=60)])
    await world.clock.advance(1)
    await subscription.receive(1, 0)
    depth = await driver.depth(QUEUE)
    assert (depth.ready, depth.in_flight, depth.delayed, depth.oldest_age) == (2, 1, 1, 4.0)

"""Settling, whatever the model: what is done never comes again, what is given back does."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tests.unit.memory.tools import QUEUE, Events, World, create, ids, now, out, outs
from unibus.driver import Outbound, Outcome, Queue
from unibus.errors import UnsupportedCapability


@pytest.mark.parametrize("outcome", [Outcome.ACK, Outcome.REJECT])
async def test_what_is_done_never_comes_again(world: World, url: str, events: Events, outcome: Outcome) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    first = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1, 2, 3))
    a, b, c = await first.receive(10, 0)
    await first.settle([b], outcome)
    await first.settle([a, c], outcome)
    await first.close()
    second = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    assert await now(second) == []
    assert (await driver.depth(QUEUE)).ready == 0


async def test_settling_twice_is_no_error(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1, 2))
    a, b = await subscription.receive(10, 0)
    await subscription.settle([a], Outcome.ACK)
    await subscription.settle([a, b], Outcome.ACK)
    await subscription.settle([b], Outcome.NACK)
    assert await now(subscription) == []


async def test_what_is_given_back_comes_first_and_is_marked(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1, 2, 3, 4))
    a, b, c = await subscription.receive(3, 0)
    await subscription.settle([c], Outcome.NACK)
    await subscription.settle([b, a], Outcome.NACK)
    again = await subscription.receive(10, 0)
    assert ids(again) == ["1", "2", "3", "4"]
    assert [delivery.redelivered for delivery in again] == [True, True, True, False]


async def test_what_is_given_back_wakes_a_waiting_receive(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1))
    held = await subscription.receive(3, 0)
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.quiet()
    await subscription.settle(held, Outcome.NACK)
    assert ids(await waiting) == ["1"]


async def test_a_nack_with_a_delay_comes_later_and_never_early(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url + ("" if "?" in url else "?lease=0"))
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1, 2))
    a, b = await subscription.receive(10, 0)
    await subscription.settle([a], Outcome.NACK, delay=10)
    assert await now(subscription) == []
    assert (await driver.depth(QUEUE)).delayed == 1
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.advance(9.9)
    assert not waiting.done()
    await world.clock.advance(0.1)
    [again] = waiting.result()
    assert (again.message_id, again.redelivered) == ("1", True)
    with pytest.raises(UnsupportedCapability):
        await subscription.settle([b], Outcome.ACK, delay=1)


async def test_at_most_once_settles_on_receipt(world: World, url: str, events: Events) -> None:
    shared = url.replace("memory://", "memory://once")
    shared += ("&" if "?" in url else "?") + "guarantee=at_most_once"
    victim, survivor = await world.driver(shared), await world.driver(shared)
    await victim.declare(create(QUEUE))
    subscription = await victim.subscribe(QUEUE, prefetch=2, notify=events)
    await victim.send(QUEUE, outs(1, 2, 3, 4, 5))
    held = [*await subscription.receive(2, 0), *await subscription.receive(2, 0)]
    assert ids(held) == ["1", "2", "3", "4"]
    assert (await victim.depth(QUEUE)).in_flight == 0
    await subscription.settle(held[:1], Outcome.NACK)
    await subscription.settle(held[1:2], Outcome.ACK)
    await world.clock.advance(100)
    victim.vanish()
    heir = await survivor.subscribe(QUEUE, prefetch=10, notify=events)
    assert await now(heir) == ["5"]


async def test_a_settled_message_leaves_no_trace(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    ordered = Queue("ordered", ordering="key")
    await driver.declare(create(QUEUE, ordered))
    for queue in (QUEUE, ordered):
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        for n in range(30):
            await driver.send(queue, [out(f"trace-{n}-{m}", key=f"trace-{n}") for m in range(3)])
            held = await subscription.receive(10, 0)
            await subscription.settle(held[:1], Outcome.NACK)
            await subscription.settle([*held[1:], *await subscription.receive(10, 0)], Outcome.ACK)
        del held
    gc.collect()
    traces = [
        thing for thing in gc.get_objects() if isinstance(thing, Outbound) and thing.message_id.startswith("trace")
    ]
    assert traces == []

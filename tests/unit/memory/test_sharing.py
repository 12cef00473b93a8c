from __future__ import annotations

import asyncio

import pytest

from tests.unit.memory.tools import QUEUE, Events, World, create, now, outs
from unibus.driver import SystemClock, Url
from unibus.errors import ConfigurationError, DestinationNotFound, NotOpen
from unibus.memory import MemoryDriver, connect
from unibus.testing.clock import MovableClock


async def test_without_a_name_the_broker_is_private(world: World) -> None:
    one, two = await world.driver(), await world.driver()
    await one.declare(create(QUEUE))
    with pytest.raises(DestinationNotFound):
        await two.depth(QUEUE)


async def test_with_a_name_it_is_shared_until_the_last_one_leaves(world: World, events: Events) -> None:
    one, two = await world.driver("memory://shared"), await world.driver("memory://shared")
    other = await world.driver("memory://other")
    await one.declare(create(QUEUE))
    await one.send(QUEUE, outs(1))
    await one.close()
    with pytest.raises(DestinationNotFound):
        await other.depth(QUEUE)
    subscription = await two.subscribe(QUEUE, prefetch=1, notify=events)
    assert await now(subscription) == ["1"]
    await two.close()
    three = await world.driver("memory://shared")
    with pytest.raises(DestinationNotFound):
        await three.depth(QUEUE)


async def test_other_options_are_refused_and_named(world: World) -> None:
    await world.driver("memory://shared?lease=5")
    with pytest.raises(ConfigurationError, match=r"lease is 5\.0 there and 6\.0 here"):
        await world.driver("memory://shared?lease=6")
    with pytest.raises(ConfigurationError, match="model is queue there and log here"):
        await world.driver("memory://shared?model=log")


async def test_another_clock_is_refused(world: World) -> None:
    await world.driver("memory://shared")
    with pytest.raises(ConfigurationError, match="another clock"):
        await world.driver("memory://shared", MovableClock())
    with pytest.raises(ConfigurationError, match="another clock"):
        await world.driver("memory://shared", SystemClock())
    await world.driver("memory://real", SystemClock())
    await world.driver("memory://real", SystemClock())


async def test_another_event_loop_is_refused(world: World) -> None:
    await world.driver("memory://shared")

    def elsewhere() -> None:
        asyncio.run(MemoryDriver(Url("memory://shared"), world.clock).open())

    with pytest.raises(ConfigurationError, match="event loop"):
        await asyncio.to_thread(elsewhere)
    # The worker thread of the default executor would count as a task's leftover.
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_a_broker_whose_loop_is_gone_is_gone(world: World) -> None:
    async def leave_open() -> None:
        driver = MemoryDriver(Url("memory://left"), world.clock)
        await driver.open()
        await driver.declare(create(QUEUE))

    await asyncio.to_thread(lambda: asyncio.run(leave_open()))
    await asyncio.get_running_loop().shutdown_default_executor()
    driver = await world.driver("memory://left")
    with pytest.raises(DestinationNotFound):
        await driver.depth(QUEUE)


async def test_connecting_opens_nothing(clock: MovableClock) -> None:
    driver = connect(Url("memory://unopened"), clock)
    with pytest.raises(NotOpen):
        await driver.declare(create(QUEUE))
    await driver.close()

"""The end of a bus: what is in hand goes back, keeps its attempt, and is reported if it does not end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.unit.core.orders import Order
from unibus import Bus
from unibus.testing import app


async def test_a_handler_that_never_ends_is_reported_by_name_and_given_back(caplog: pytest.LogCaptureFixture) -> None:
    bus = Bus("memory://shared-never-ends", grace=3)
    stuck = asyncio.Event()

    @bus.consumer("orders", concurrency=1)
    async def stubborn(order: Order) -> None:
        stuck.set()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if release.is_set():
                    raise

    release = asyncio.Event()
    keeper = Bus("memory://shared-never-ends", connect=None)
    with caplog.at_level(logging.ERROR, "unibus"):
        async with app(bus, "memory://shared-never-ends") as t:
            keeper.configure(clock=t.clock)
            async with keeper:
                await t.send("orders", Order(id=1))
                await t.send("orders", Order(id=2))
                await stuck.wait()
                lanes = [lane.task for lane in bus.session.consumers[0].lanes]
                stop = asyncio.ensure_future(_stop(bus, t))
                await stop
                depth = await keeper.depth("orders")
                assert (depth.ready, depth.in_flight) == (2, 0)
    release.set()
    for lane in lanes:
        assert lane is not None
        lane.cancel()
        await asyncio.wait([lane])
    assert any("stubborn" in record.getMessage() for record in caplog.records)


async def _stop(bus: Bus, t: Any) -> None:
    """Stop consuming while the clock passes the grace period."""
    async with bus.grace_period() as over:
        stopping = asyncio.ensure_future(bus.session.stop_consumers(over))
        while not stopping.done():
            await t.clock.advance(1)
        assert not await stopping

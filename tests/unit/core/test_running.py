"""A bus that runs: what its health says, and what it costs in tasks, objects and calls."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from pathlib import Path
from typing import Any

from tests.unit.core.orders import Order, handled
from unibus import Bus, Reject, retry
from unibus.driver import Blocked, Disconnected, Gap, Reconnected, Unblocked
from unibus.testing import app

# --- health -------------------------------------------------------------------------------------------


async def test_health_says_why() -> None:
    bus = Bus("memory://", stall_after=60)
    hang = asyncio.Event()

    @bus.consumer("orders", concurrency=1)
    @retry(on=ConnectionError, attempts=1)
    async def handle(order: Order) -> None:
        await hang.wait()

    assert (bus.health().live, bus.health().ready) == (True, False)
    async with app(bus) as t:
        assert (bus.health().live, bus.health().ready) == (True, True)
        notify = bus.session.consumers[0]._on_event
        for event, says in ((Disconnected("cut"), "away"), (Blocked("disk"), "takes no messages")):
            notify(event)
            assert says in bus.health().reasons[0]
            notify(Reconnected())
            notify(Unblocked())
            assert bus.health().ready
        notify(Gap(3))
        assert bus.stats()["orders"].gaps == 1
        await t.clock.advance(1000)  # idle is healthy
        await t.send("orders", Order(id=1))
        await t.clock.advance(50)
        assert bus.health().ready
        await t.clock.advance(20)
        assert "no progress" in bus.health().reasons[0]
        hang.set()
        await t.settled()
        assert bus.health().ready
    assert bus.health().live is False
    assert bus.stats()["orders"].handled == 1  # kept for those who look afterwards


# --- resources ----------------------------------------------------------------------------------------


async def test_many_topics_cost_no_task_each() -> None:
    bus = Bus("memory://")
    async with bus:
        for number in range(5000):
            await bus.publisher(f"topic.n{number}").publish(number)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1


async def test_memory_does_not_grow_with_messages() -> None:
    """The objects left after 20,000 messages are not more than after 2,000."""
    bus = Bus("memory://")
    seen = 0

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        nonlocal seen
        seen += 1
        if order.id % 10 == 0:
            raise Reject("no")

    @bus.consumer("orders.dlq")
    async def bury(order: Order) -> None: ...

    async def pass_through(count: int) -> int:
        await bus.producer("orders").send_many(Order(id=number) for number in range(count))
        for queue in ("orders", "orders.dlq"):
            while (depth := await bus.depth(queue)).ready or depth.in_flight:
                await asyncio.sleep(0)
        gc.collect()
        return len(gc.get_objects())

    logging.getLogger("unibus.consumer").setLevel(logging.ERROR)
    try:
        async with bus.consuming():
            await pass_through(500)
            before = await pass_through(2_000)
            after = await pass_through(20_000)
    finally:
        logging.getLogger("unibus.consumer").setLevel(logging.NOTSET)
    assert after - before < 500


async def test_all_tasks_end_at_close() -> None:
    bus = Bus("memory://")
    seen = handled(bus)

    @bus.subscriber("order.*", group="audit")
    async def audit(order: Order) -> None: ...

    async with bus.consuming():
        for number in range(20):
            await bus.producer("orders").send(Order(id=number))
        while len(seen) < 20:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_message_crosses_few_python_calls() -> None:
    """From the lane to the handler's first line, and back to the ack, with the default stack."""
    bus = Bus("memory://")
    done = asyncio.Event()
    count = 500
    calls: dict[str, int] = {}

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        if order.id == count - 1:
            done.set()

    def profile(frame: Any, event: str, _: object) -> None:
        if event == "call" and f"{os.sep}unibus{os.sep}" in frame.f_code.co_filename:
            calls[frame.f_code.co_filename] = calls.get(frame.f_code.co_filename, 0) + 1

    async with bus:
        await bus.producer("orders").send_many([Order(id=number) for number in range(count)])
        sys.setprofile(profile)
        try:
            async with bus.consuming():
                await done.wait()
        finally:
            sys.setprofile(None)
    per_message = {Path(name).name: number / count for name, number in calls.items() if number >= count}
    assert sum(per_message.values()) <= 15
    assert len(per_message) <= 7

"""How lanes share the loop: with each other, and with what brings and settles messages."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.core.orders import Order
from unibus import Bus, Queue, lanes
from unibus.buffer import Buffer
from unibus.driver import Delivery
from unibus.rounds import Rounds
from unibus.testing import MovableClock


def delivery(number: int) -> Delivery:
    return Delivery(b"", {}, {}, None, str(number), "orders", None, 1, False, number)


async def handled(bus: Bus, count: int) -> None:
    """Wait until the consumer of orders has handled so many."""
    async with asyncio.timeout(10):
        while bus.stats()["orders"].handled < count:
            await asyncio.sleep(0)


async def test_the_number_of_rounds_rises_with_the_loop_and_not_before() -> None:
    rounds = Rounds()
    first = rounds.watch()
    assert (rounds.watch(), rounds.number) == (first, first)
    await asyncio.sleep(0)
    assert rounds.number == first + 1
    await asyncio.sleep(0)
    assert rounds.number == first + 1, "nobody asked"


async def test_handlers_that_never_suspend_let_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LONGEST_TURN", 0.0)
    bus, seen = Bus("memory://"), list[str]()

    @bus.consumer(Queue("orders"), concurrency=1)
    async def handle(order: Order) -> None:
        if order.id == 0:
            asyncio.get_running_loop().call_soon(seen.append, "other")
        seen.append("handler")

    async with bus:
        for number in range(3):
            await bus.producer("orders").send(Order(id=number))
        async with bus.consuming():
            await handled(bus, 3)
    assert seen == ["handler", "other", "handler", "handler"]


async def test_one_lane_does_all_while_its_handlers_do_not_suspend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "LONGEST_TURN", 0.0)
    bus, tasks = Bus("memory://"), set[object]()

    @bus.consumer(Queue("orders"), concurrency=8)
    async def handle(order: Order) -> None:
        tasks.add(asyncio.current_task())

    async with bus:
        await bus.producer("orders").send_many([Order(id=number) for number in range(50)])
        async with bus.consuming():
            await handled(bus, 50)
    assert len(tasks) == 1


async def test_the_others_are_woken_when_a_handler_suspends_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the lane that was woken first has let others run in between."""
    monkeypatch.setattr(lanes, "LONGEST_TURN", 0.0)
    bus, begun, go = Bus("memory://"), list[int](), asyncio.Event()

    @bus.consumer(Queue("orders"), concurrency=3)
    async def handle(order: Order) -> None:
        begun.append(order.id)
        if order.id >= 10:
            await go.wait()

    async with bus:
        await bus.producer("orders").send_many([Order(id=number) for number in range(15)])
        async with bus.consuming():
            async with asyncio.timeout(10):
                while len(begun) < 13:
                    await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(begun) == 13, "three lanes, each with one in hand"
            go.set()
            await handled(bus, 15)


async def test_a_lane_that_is_cancelled_while_it_pauses_leaves_what_is_buffered_to_others() -> None:
    buffer = Buffer(MovableClock(), lambda: None)
    other = asyncio.create_task(buffer.wait())
    await asyncio.sleep(0)
    pausing = asyncio.create_task(buffer.pause())
    await asyncio.sleep(0)
    assert buffer.is_paused()
    buffer.put([delivery(1)])
    pausing.cancel()
    async with asyncio.timeout(10):
        await other
    assert not buffer.is_paused()


async def test_what_comes_while_a_lane_pauses_is_for_that_lane() -> None:
    buffer = Buffer(MovableClock(), lambda: None)
    other = asyncio.create_task(buffer.wait())
    await asyncio.sleep(0)

    async def lane() -> None:
        await buffer.pause()
        buffer.items.popleft()

    going_on = asyncio.create_task(lane())
    await asyncio.sleep(0)
    buffer.put([delivery(1)])
    await going_on
    for _ in range(3):
        await asyncio.sleep(0)
    assert not other.done()
    other.cancel()


async def test_a_handler_that_has_suspended_has_let_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second time: with many lanes that would be a round of the loop more for each message."""
    monkeypatch.setattr(lanes, "LONGEST_TURN", 0.0)
    pauses = 0
    pause = Buffer.pause

    async def counted(self: Buffer) -> None:
        nonlocal pauses
        pauses += 1
        await pause(self)

    monkeypatch.setattr(Buffer, "pause", counted)
    bus = Bus("memory://")

    @bus.consumer(Queue("orders"), concurrency=2)
    async def handle(order: Order) -> None:
        await asyncio.sleep(0)

    async with bus:
        await bus.producer("orders").send_many([Order(id=number) for number in range(20)])
        async with bus.consuming():
            await handled(bus, 20)
    assert pauses == 0

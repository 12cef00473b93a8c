"""The end of a bus: what is in hand goes back, keeps its attempt, and is reported if it does not end."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.unit.core.orders import Order
from tests.unit.core.recount import settled
from unibus import Bus, Message, Queue, constant, registry, retry
from unibus.testing import MovableClock, app
from unibus.testing.faults import Call, Faults, Proceed


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


@pytest.mark.parametrize(("ordered", "attempt"), [(False, 2), (True, 1)])
async def test_a_short_retry_at_shutdown_keeps_its_attempt_where_it_can_be_resent(ordered: bool, attempt: int) -> None:
    clock = MovableClock()
    queue = Queue("orders", ordering="key" if ordered else "none")
    attempts: list[int] = []

    def make() -> Bus:
        bus = Bus("memory://short-retry", clock=clock)

        @bus.consumer(queue)
        @retry(on=ValueError, attempts=3, backoff=constant(0.9))
        async def handle(order: Order, message: Message[Order]) -> None:
            attempts.append(message.attempt)
            if len(attempts) == 1:
                raise ValueError

        return bus

    first, second = make(), make()
    async with second:
        async with first.consuming():
            await first.producer(queue).send(Order(id=1), key="k")
            await clock.quiet()
            assert attempts == [1]
        depth = await second.depth(queue)
        assert (depth.ready, depth.delayed) == ((1, 0) if ordered else (0, 1))
        async with second.consuming():
            await settled(second, clock)
    assert attempts == [1, attempt]
    assert clock.monotonic() == 1000.0 + (0.0 if ordered else 0.9)


@pytest.mark.parametrize("delay", ["on", "off"])
async def test_what_is_released_at_shutdown_keeps_its_first_failure(delay: str) -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=3, backoff=constant(0.9))
    async def handle(order: Order) -> None:
        raise ValueError

    async with app(bus, f"memory://?delay={delay}") as t:
        await t.send("orders", Order(id=1))
        await t.send("orders", Order(id=2), headers={"a": "b"})
        await t.clock.quiet()
        await t.clock.advance(0.4)
    resent = t.sent("orders")[2:]
    assert [sent.attributes["unibusattempt"] for sent in resent] == ["2", "2"]
    assert {sent.attributes["unibusfirst"] for sent in resent} == {"2026-01-01T00:00:00.000Z"}
    assert [round(sent.delay, 6) for sent in resent] == ([0.5, 0.5] if delay == "on" else [0.0, 0.0])
    assert dict(resent[1].headers) == {"a": "b"}


async def test_what_is_due_again_at_shutdown_and_was_not_begun_keeps_its_attempt() -> None:
    bus, busy = Bus("memory://"), asyncio.Event()

    @bus.consumer("orders", concurrency=1)
    @retry(on=ValueError, attempts=3, backoff=constant(0.5))
    async def handle(order: Order) -> None:
        if order.id == 1:
            raise ValueError
        busy.set()
        while not bus.session.consumers[0].stopping:
            await asyncio.sleep(0)

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.send("orders", Order(id=2))
        await busy.wait()
        await t.clock.advance(0.6)  # the first is due again, and its lane has the second in hand
    resent = t.sent("orders")[2:]
    assert [(sent.attributes["unibusattempt"], sent.delay) for sent in resent] == [("2", 0.0)]


async def test_what_was_handled_at_its_second_attempt_is_not_sent_again_at_shutdown() -> None:
    faults, clock, attempts = Faults(), MovableClock(), list[int]()

    async def slowly(call: Call, proceed: Proceed) -> None:
        for _ in range(50):  # the ack is under way while the consumer drains
            await asyncio.sleep(0)
        await proceed(call.items)

    faults.add("settle", slowly, times=None)
    keeper = Bus("memory://second-attempt", clock=clock)
    bus = Bus("memory://second-attempt", clock=clock, connect=faults.connect(registry.connect))

    @bus.consumer("orders", concurrency=1)
    @retry(on=ValueError, attempts=3, backoff=constant(0.5))
    async def handle(order: Order, message: Message[Order]) -> None:
        attempts.append(message.attempt)
        if message.attempt == 1:
            raise ValueError
        while not bus.session.consumers[0].stopping:
            await asyncio.sleep(0)
        for _ in range(50):  # it is what the consumer waits for last
            await asyncio.sleep(0)

    async with keeper:
        async with bus.consuming():
            await bus.producer("orders").send(Order(id=1))
            await clock.quiet()
            await clock.advance(0.6)
        depth = await keeper.depth("orders")
    assert attempts == [1, 2]
    assert (depth.ready, depth.in_flight, depth.delayed) == (0, 0, 0)

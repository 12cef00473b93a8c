"""What becomes of messages: retried, rejected, dropped, timed out or cancelled, and in which order."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.unit.core.orders import Order
from tests.unit.core.recount import opened, settled
from unibus import Bus, Drop, Message, Queue, Reject, Retry, constant, retry, timeout
from unibus.testing import app


async def test_retry_waits_by_its_backoff_and_counts_attempts() -> None:
    bus = Bus("memory://")
    runs: list[tuple[int, float]] = []

    @bus.consumer("orders")
    @retry(on=ConnectionError, attempts=4, backoff=constant(100))
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append((message.attempt, t.clock.monotonic()))
        if message.attempt < 3:
            raise ConnectionError

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.settled()
        assert bus.stats()["orders"].retried == 2
        assert bus.stats()["orders"].handled == 1
    assert runs == [(1, 1000.0), (2, 1100.0), (3, 1200.0)]


@pytest.mark.parametrize("short", [True, False])
async def test_an_error_that_no_policy_takes_is_a_dead_letter_at_once(short: bool) -> None:
    bus = Bus("memory://")
    runs = 0

    @bus.consumer("orders")
    @retry(on=ConnectionError, retry_if=lambda error: short)
    async def handle(order: Order) -> None:
        nonlocal runs
        runs += 1
        raise ConnectionError if not short else ValueError

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.settled()
        (dead,) = t.dead_letters("orders")
    assert dead.dead_letter is not None
    assert dead.dead_letter.error_type == ("ValueError" if short else "ConnectionError")
    assert runs == 1


async def test_max_elapsed_ends_retries() -> None:
    bus = Bus("memory://")
    runs = 0

    @bus.consumer("orders")
    @retry(on=ConnectionError, attempts=100, backoff=constant(30), max_elapsed=100)
    async def handle(order: Order) -> None:
        nonlocal runs
        runs += 1
        raise ConnectionError

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.settled()
        assert len(t.dead_letters("orders")) == 1
    assert runs == 5  # at 0, 30, 60, 90 and 120 s


async def test_decisions_of_the_handler() -> None:
    bus = Bus("memory://")
    runs: list[tuple[int, float]] = []

    @bus.consumer("orders")
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append((order.id, t.clock.monotonic()))
        match order.id:
            case 1:
                raise Reject("not ours")
            case 2:
                raise Drop
            case 3 if message.attempt == 1:
                raise Retry(after=500)

    async with app(bus) as t:
        for number in (1, 2, 3):
            await t.send("orders", Order(id=number))
        await t.settled()
        assert [sent.dead_letter.reason for sent in t.dead_letters("orders") if sent.dead_letter] == ["not ours"]
        assert bus.stats()["orders"].dropped == 1
    assert runs == [(1, 1000.0), (2, 1000.0), (3, 1000.0), (3, 1500.0)]


async def test_timeout_is_a_failure_like_any_other() -> None:
    bus = Bus("memory://")
    runs: list[str] = []

    @bus.consumer("orders")
    @retry(on=TimeoutError, attempts=2, backoff=constant(5))
    @timeout(10)
    async def handle(order: Order) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            runs.append("ended")

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.settled()
        (dead,) = t.dead_letters("orders")
        assert t.clock.monotonic() == 1025.0
        assert bus.stats()["orders"].lane_restarts == 0
    assert dead.dead_letter is not None
    assert dead.dead_letter.error_type == "TimeoutError"
    assert runs == ["ended", "ended"]


async def test_a_handler_that_swallows_its_timeout_has_succeeded_and_its_lane_goes_on() -> None:
    bus = Bus("memory://")
    seen: list[int] = []

    @bus.consumer("orders", concurrency=1)
    @timeout(10)
    async def handle(order: Order) -> None:
        if order.id == 1:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.sleep(0)
        seen.append(order.id)

    async with app(bus) as t:
        for number in (1, 2, 3):
            await t.send("orders", Order(id=number))
        await t.settled()
        assert t.dead_letters("orders") == []
        assert bus.stats()["orders"].lane_restarts == 0
    assert seen == [1, 2, 3]


async def test_a_foreign_cancellation_is_a_failure_and_the_lanes_live() -> None:
    bus = Bus("memory://")
    runs: list[int] = []

    @bus.consumer("orders", concurrency=2)
    @retry(on=Exception, attempts=2, backoff=constant(0))
    async def handle(order: Order) -> None:
        runs.append(order.id)
        if order.id < 4:
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            await cancelled

    async with app(bus) as t:
        for number in range(6):
            await t.send("orders", Order(id=number))
        await t.settled()
        dead = t.dead_letters("orders")
        assert {sent.dead_letter.error_type for sent in dead if sent.dead_letter} == {"unibus.errors.HandlerCancelled"}
        assert bus.stats()["orders"].lane_restarts == 0
    assert sorted(runs) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 5]
    assert len(dead) == 4


async def test_a_handler_that_cancels_its_own_task_costs_a_lane_and_loses_nothing() -> None:
    bus = Bus("memory://")
    runs: list[int] = []

    @bus.consumer("orders", concurrency=1)
    @retry(on=Exception, attempts=2, backoff=constant(0))
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append(order.id)
        if order.id == 1 and message.attempt == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    async with app(bus) as t:
        for number in range(4):
            await t.send("orders", Order(id=number))
        await t.settled()
        assert t.dead_letters("orders") == []
        assert bus.stats()["orders"].lane_restarts == 1
        assert not bus.health().ready
    assert sorted(runs) == [0, 1, 1, 2, 3]


async def test_retry_before_a_second_waits_in_the_process() -> None:
    bus = Bus("memory://")
    attempts: list[int] = []

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=3, backoff=constant(0.5))
    async def handle(order: Order, message: Message[Order]) -> None:
        attempts.append(message.attempt)
        if message.attempt < 3:
            raise ValueError

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.settled()
        assert len(t.sent("orders")) == 1  # nothing was re-sent
    assert attempts == [1, 2, 3]


async def test_order_by_key_is_kept_through_failures() -> None:
    bus = Bus("memory://")
    orders = Queue("orders", ordering="key")
    seen: dict[str | None, list[int]] = {}

    @bus.consumer(orders)
    @retry(on=ValueError, attempts=3, backoff=constant(10))
    async def handle(order: Order, message: Message[Order]) -> None:
        await asyncio.sleep(0)
        if order.id % 5 == 0 and message.attempt < 3:
            raise ValueError
        seen.setdefault(message.key, []).append(order.id)

    async with app(bus) as t:
        for number in range(40):
            await t.send("orders", Order(id=number), key=f"k{number % 4}")
        await t.settled()
    assert seen == {f"k{key}": [number for number in range(40) if number % 4 == key] for key in range(4)}


async def test_attempts_in_the_process_count_for_a_resend_that_had_to_be_tried_again() -> None:
    bus = Bus()
    attempts: list[int] = []

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=5, backoff=lambda failures: 0.5 if failures < 3 else 30.0)
    async def handle(order: Order, message: Message[Order]) -> None:
        attempts.append(message.attempt)
        if len(attempts) == 3:
            driver.fail_sends = 2
        if len(attempts) < 5:
            raise ValueError

    clock, driver = await opened(bus, {})
    await bus.producer("orders").send(Order(id=1))
    async with bus.consuming():
        await settled(bus, clock)
        assert bus.stats()["orders"].retried == 4
        assert bus.stats()["orders"].send_failures == 2
    await bus.__aexit__(None, None, None)
    assert attempts == [1, 2, 3, 4, 5]

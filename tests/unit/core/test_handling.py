"""How handlers are called, and what becomes of their messages."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from unibus import (
    BatchHandler,
    Bus,
    Drop,
    Handler,
    Message,
    Queue,
    Reject,
    Retry,
    Router,
    constant,
    dead_letter,
    idempotent,
    retry,
    timeout,
    use,
)
from unibus.testing import app, message


class Order(BaseModel):
    id: int


class Renamed(BaseModel):
    message_type: ClassVar[str] = "shop.order"
    message_version: ClassVar[str] = "2"

    number: int = Field(alias="No")


class Created(BaseModel):
    id: int


class Deleted(BaseModel):
    id: int


@dataclass
class Point:
    x: int


class Row(TypedDict):
    a: int


class Pool: ...


class Mailer: ...


# --- payloads and parameters --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "sent", "got"),
    [
        (Order, Order(id=1), Order(id=1)),
        (Order, {"id": 1}, Order(id=1)),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (list[Order], [Order(id=1)], [Order(id=1)]),
        (Point, Point(x=3), Point(x=3)),
        (Row, {"a": 2}, {"a": 2}),
        (str, "text", "text"),
        (int | None, None, None),
        (bytes, b"\x00\xff", b"\x00\xff"),
        (Renamed, Renamed(No=5), Renamed(No=5)),
        (Created | Deleted, Deleted(id=1), Deleted(id=1)),
    ],
)
async def test_every_kind_of_payload(annotation: Any, sent: Any, got: Any) -> None:
    bus = Bus("memory://")
    seen: list[Any] = []

    async def handle(payload: Any) -> None:
        seen.append(payload)

    handle.__annotations__["payload"] = annotation
    bus.consumer("things")(handle)
    async with app(bus) as t:
        await t.send("things", sent)
        await t.settled()
        assert t.dead_letters("things") == []
    assert seen == [got]
    assert type(seen[0]) is type(got)


async def test_the_type_of_a_message_chooses_among_the_annotations_members_only() -> None:
    bus = Bus("memory://")
    seen: list[object] = []

    @bus.consumer("things")
    async def handle(thing: Created | Deleted) -> None:
        seen.append(type(thing))

    async with app(bus) as t:
        await t.send("things", Created(id=1))
        await t.send("things", Deleted(id=1))
        await t.send("things", {"id": 1})  # an unknown type: pydantic chooses
        await t.settled()
    assert seen == [Created, Deleted, Created]


async def test_type_and_version_travel() -> None:
    bus = Bus("memory://", name="shop")
    seen: list[Message[Any]] = []

    @bus.consumer("things")
    async def handle(message: Message[Renamed]) -> None:
        seen.append(message)

    async with app(bus) as t:
        await t.send("things", Renamed(No=1), key="k", headers={"a": "b"})
        await t.settled()
    (got,) = seen
    assert (got.type, got.version, got.source, got.key, dict(got.headers)) == (
        "shop.order",
        "2",
        "shop",
        "k",
        {"a": "b"},
    )
    assert got.timestamp is not None
    assert got.timestamp.isoformat() == "2026-01-01T00:00:00+00:00"
    assert (got.address, got.attempt, got.redelivered) == ("things", 1, False)
    assert got.correlation_id == got.id
    assert got.causation_id is None


async def test_injection_of_the_bus_and_of_what_the_lifespan_yields() -> None:
    log: list[str] = []

    async def lifespan(bus: Bus) -> AsyncIterator[tuple[Pool, Mailer]]:
        log.append("open")
        yield Pool(), Mailer()
        log.append("close")

    bus = Bus("memory://", lifespan=lifespan)

    @bus.consumer("orders")
    async def handle(order: Order, pool: Pool, *, mailer: Mailer, the_bus: Bus, message: Message[Order]) -> None:
        assert (type(pool), type(mailer)) == (Pool, Mailer)
        assert the_bus is bus
        assert message.data is order
        log.append("handled")

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.settled()
    assert log == ["open", "handled", "close"]


async def test_a_lifespan_under_asynccontextmanager() -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[Pool]:
        yield Pool()

    bus = Bus("memory://", lifespan=lifespan)
    seen: list[Pool] = []

    @bus.consumer("orders")
    async def handle(order: Order, pool: Pool) -> None:
        seen.append(pool)

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.settled()
    assert len(seen) == 1


async def test_a_def_handler_runs_in_a_thread_with_the_context() -> None:
    bus = Bus("memory://")
    threads: list[int] = []

    @bus.consumer("orders")
    def handle(order: Order) -> None:
        threads.append(threading.get_ident())
        if order.id == 2:
            raise Reject("no")

    async with app(bus) as t:
        for number in (1, 2):
            await t.send("orders", Order(id=number))
        await t.settled()
        assert len(t.dead_letters("orders")) == 1
    assert threading.get_ident() not in threads
    assert len(threads) == 2


async def test_the_decorated_function_is_still_the_function() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @dead_letter()
    @idempotent(store="memory")
    @retry(on=ValueError)
    @timeout(5)
    async def handle(order: Order, message: Message[Order]) -> str:
        return f"{order.id} {message.id}"

    assert await handle(Order(id=1), message(Order(id=1), id="x")) == "1 x"


# --- outcomes -----------------------------------------------------------------------------------------


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


async def test_exhausted_retries_leave_a_complete_record() -> None:
    bus = Bus("memory://", name="shop")

    @bus.consumer("orders")
    @retry(on=ConnectionError, attempts=3, backoff=constant(10))
    async def handle(order: Order) -> None:
        raise ConnectionError("no route")

    async with app(bus) as t:
        await t.send("orders", Order(id=1), headers={"a": "b"}, key="k")
        await t.settled()
        (dead,) = t.dead_letters("orders")
    record = dead.dead_letter
    assert record is not None
    assert dead.address == "orders.dlq"
    assert dead.body == b'{"id":1}'
    assert (dict(dead.headers), dead.key) == ({"a": "b"}, "k")
    assert (record.reason, record.error_type, record.message) == (
        "failed 3 times: ConnectionError: no route",
        "ConnectionError",
        "no route",
    )
    assert "in handle\n" in record.stack
    assert (record.attempts, record.source, record.topic, record.group) == (3, "orders", "", "")
    assert (record.first_failure, record.last_failure) == ("2026-01-01T00:00:00.000Z", "2026-01-01T00:00:20.000Z")
    assert "handle" in record.handler
    assert record.host
    assert dead.attributes["type"] == "Order"
    assert "unibusattempt" not in dead.attributes


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


async def test_dead_letter_none_drops_and_a_name_redirects() -> None:
    bus = Bus("memory://")

    @bus.consumer("a")
    @dead_letter(None)
    async def first(order: Order) -> None:
        raise Reject("x")

    @bus.consumer("b")
    @dead_letter("graveyard")
    async def second(order: Order) -> None:
        raise Reject("y")

    async with app(bus) as t:
        await t.send("a", Order(id=1))
        await t.send("b", Order(id=1))
        await t.settled()
        assert t.sent("a.dlq") == []
        assert len(t.sent("graveyard")) == 1
        assert (bus.stats()["a"].dropped, bus.stats()["b"].dead_lettered) == (1, 1)


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


# --- middlewares --------------------------------------------------------------------------------------


async def test_middlewares_stand_in_their_ranks_and_see_the_decoded_payload() -> None:
    log: list[str] = []

    def noting(name: str) -> Any:
        def middleware(inner: Handler) -> Handler:
            async def run(message: Message[Any]) -> object:
                log.append(f"{name} {message.data.id}")
                return await inner(message)

            return run

        return middleware

    bus = Bus("memory://", middleware=[noting("bus")])

    @bus.consumer("orders")
    @use(noting("first"))
    @retry(on=ValueError, attempts=2, backoff=constant(0))
    @use(noting("second"))
    async def handle(order: Order, message: Message[Order]) -> None:
        if message.attempt == 1:
            raise ValueError

    async with app(bus) as t:
        await t.send("orders", Order(id=7))
        await t.settled()
    assert log == ["bus 7", "first 7", "second 7"] * 2


async def test_idempotent_over_retry_has_the_effect_once() -> None:
    bus = Bus("memory://")
    effects: list[int] = []

    @bus.consumer("orders")
    @retry(on=ConnectionError, attempts=5, backoff=constant(50))
    @idempotent(key=lambda message: message.data.id, store="memory")
    async def handle(order: Order, message: Message[Order]) -> None:
        if message.attempt < 3:
            raise ConnectionError
        effects.append(order.id)

    async with app(bus) as t:
        for number in (1, 1, 2, 1):
            await t.send("orders", Order(id=number))
        await t.settled()
        stats = bus.stats()["orders"]
        assert (stats.handled, stats.skipped) == (2, 2)
        assert t.dead_letters("orders") == []
    assert sorted(effects) == [1, 2]


# --- batches ------------------------------------------------------------------------------------------


async def test_batches_by_count_and_by_time() -> None:
    bus = Bus("memory://")
    batches: list[list[int]] = []

    @bus.consumer("orders", max_batch=4, max_wait=5, concurrency=1)
    async def handle(messages: list[Message[Order]]) -> None:
        batches.append([message.data.id for message in messages])

    async with app(bus) as t:
        await bus.producer("orders").send_many([Order(id=number) for number in range(10)])
        await t.settled()
        assert bus.stats()["orders"].handled == 10
        assert t.clock.monotonic() == 1005.0
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_single_ones_of_a_batch_are_retried_and_rejected() -> None:
    bus = Bus("memory://")
    runs: list[tuple[int, int]] = []

    @bus.consumer("orders", max_batch=10, max_wait=1)
    @retry(on=ValueError, attempts=2, backoff=constant(7))
    async def handle(messages: list[Message[Order]]) -> None:
        for each in messages:
            runs.append((each.data.id, each.attempt))
            if each.data.id == 1 and each.attempt == 1:
                each.retry(after=60)
            if each.data.id == 2:
                each.reject("bad")
            if each.data.id == 3:
                each.retry()

    async with app(bus) as t:
        await bus.producer("orders").send_many([Order(id=number) for number in range(4)])
        await t.settled()
        reasons = [sent.dead_letter.reason for sent in t.dead_letters("orders") if sent.dead_letter]
    assert sorted(reasons) == ["bad", "failed 2 times: Retry: retry"]
    assert sorted(runs) == [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1), (3, 2)]


async def test_an_exception_is_the_policy_for_each_of_the_batch() -> None:
    bus = Bus("memory://")
    runs: list[int] = []

    @bus.consumer("orders", max_batch=10, max_wait=1)
    @retry(on=ValueError, attempts=2, backoff=constant(7))
    async def handle(messages: list[Message[Order]]) -> None:
        runs.append(len(messages))
        if messages[0].attempt == 1:
            raise ValueError

    async with app(bus) as t:
        await bus.producer("orders").send_many([Order(id=number) for number in range(4)])
        await t.settled()
        assert bus.stats()["orders"].handled == 4
    assert runs == [4, 4]


async def test_a_batch_with_an_undecodable_message_and_duplicates() -> None:
    bus = Bus("memory://")
    effects: list[int] = []

    @bus.consumer("orders", max_batch=10, max_wait=1)
    @idempotent(key=lambda message: message.data.id, store="memory")
    async def handle(messages: list[Message[Order]]) -> None:
        effects.extend(message.data.id for message in messages)

    async with app(bus) as t:
        await t.send("orders", {"id": "x"})
        for number in (1, 2, 1, 2, 3):
            await t.send("orders", Order(id=number))
        await t.settled()
        (dead,) = t.dead_letters("orders")
        assert dead.body == b'{"id":"x"}'
        assert bus.stats()["orders"].skipped == 2
    assert sorted(effects) == [1, 2, 3]


async def test_own_middlewares_and_timeouts_of_batches() -> None:
    log: list[int] = []

    def noting(inner: BatchHandler) -> BatchHandler:
        async def run(messages: Sequence[Message[Any]]) -> object:
            log.append(len(messages))
            return await inner(messages)

        return run

    bus = Bus("memory://")

    @bus.consumer("orders", max_batch=3, max_wait=1)
    @retry(on=TimeoutError, attempts=1)
    @timeout(5)
    @use(noting)
    async def handle(messages: list[Message[Order]]) -> None:
        await asyncio.Event().wait()

    async with app(bus) as t:
        await bus.producer("orders").send_many([Order(id=number) for number in range(3)])
        await t.settled()
        assert len(t.dead_letters("orders")) == 3
    assert log == [3]


# --- correlation, routers -----------------------------------------------------------------------------


async def test_what_a_handler_sends_inherits_the_conversation() -> None:
    bus = Bus("memory://")
    seen: list[Message[Any]] = []

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        await bus.publisher("order.done").publish(order)

    @bus.subscriber("order.*", group="audit")
    async def audit(message: Message[Order]) -> None:
        seen.append(message)

    async with app(bus) as t:
        first = await t.send("orders", Order(id=1), correlation_id="conversation")
        second = await t.send("orders", Order(id=2))
        await t.settled()
    by_cause = {got.causation_id: got for got in seen}
    assert by_cause[first].correlation_id == "conversation"
    assert by_cause[second].correlation_id == second


async def test_a_router_with_a_prefix() -> None:
    router = Router()
    seen: list[str] = []

    @router.consumer("orders")
    async def handle(order: Order, message: Message[Order]) -> None:
        seen.append(message.address)

    @router.subscriber("order.*", group="audit")
    async def audit(order: Order, message: Message[Order]) -> None:
        seen.append(message.address)

    bus = Bus("memory://")
    bus.include(router, prefix="shop.")
    async with app(bus) as t:
        await t.send("shop.orders", Order(id=1))
        await t.publish("shop.order.done", Order(id=1))
        await t.publish("order.done", Order(id=1))
        await t.settled()
        assert set(bus.stats()) == {"shop.orders", "shop.audit"}
    assert sorted(seen) == ["shop.order.done", "shop.orders"]


# --- shutdown -----------------------------------------------------------------------------------------


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

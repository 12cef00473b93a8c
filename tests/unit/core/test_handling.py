"""How handlers are called: with which payload and parameters, inside which middlewares, by which router."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from tests.unit.core.orders import Order
from unibus import Bus, Handler, Message, Reject, Router, constant, dead_letter, idempotent, retry, timeout, use
from unibus.testing import app, message


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

"""Bad handlers and lifespans: an error at start that says what, where and what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from pydantic import BaseModel

from tests.unit.core.orders import Order
from tests.unit.core.refusals import here, refused
from unibus import Bus, ConfigurationError, Message, idempotent, retry
from unibus.testing import app

if TYPE_CHECKING:
    from decimal import Decimal


class Invoice(BaseModel):
    number: str


# --- parameters ---------------------------------------------------------------------------------------


async def test_unresolvable_annotation() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Decimal) -> None: ...

    said = await refused(bus)
    assert here(handle) in said
    assert "Decimal" in said


async def test_no_payload_parameter() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(bus: Bus) -> None: ...

    said = await refused(bus)
    assert here(handle) in said
    assert "no payload parameter" in said


async def test_two_payload_parameters() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order, invoice: Invoice) -> None: ...

    said = await refused(bus)
    assert here(handle) in said
    assert "'order'" in said
    assert "'invoice'" in said


async def test_parameter_without_annotation() -> None:
    bus = Bus("memory://")

    async def handle(order) -> None: ...  # type: ignore[no-untyped-def]

    bus.consumer("orders")(handle)
    assert "'order' has no annotation" in await refused(bus)


async def test_message_of_another_type_than_the_payload() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order, message: Message[Invoice]) -> None: ...

    assert "the two must be the same" in await refused(bus)


async def test_a_parameter_with_a_default_is_not_the_payload() -> None:
    bus = Bus("memory://")
    seen: list[int] = []

    @bus.consumer("orders")
    async def handle(order: Order, factor: int = 2) -> None:
        seen.append(order.id * factor)

    async with app(bus) as t:
        await t.send("orders", Order(id=4))
        await t.settled()
    assert seen == [8]


async def test_a_union_whose_members_share_a_name() -> None:
    class Other(BaseModel):
        message_type: ClassVar[str] = "Order"

    bus = Bus("memory://")

    async def handle(order: Any) -> None: ...

    handle.__annotations__["order"] = Order | Other
    bus.consumer("orders")(handle)
    assert "one type name" in await refused(bus)


# --- methods ------------------------------------------------------------------------------------------


def test_a_method_says_how_to_bind() -> None:
    bus = Bus("memory://")
    with pytest.raises(ConfigurationError, match=r"instance\.handle"):

        class Service:
            @bus.consumer("orders")
            async def handle(self, order: Order) -> None: ...


async def test_a_bound_method_is_a_handler() -> None:
    bus = Bus("memory://")

    class Service:
        def __init__(self) -> None:
            self.seen: list[int] = []

        @retry(on=ConnectionError)
        async def handle(self, order: Order) -> None:
            self.seen.append(order.id)

    service = Service()
    bus.consumer("orders")(service.handle)
    async with app(bus) as t:
        await t.send("orders", Order(id=7))
        await t.settled()
    assert service.seen == [7]


# --- stores -------------------------------------------------------------------------------------------


async def test_idempotent_without_a_store() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @idempotent()
    async def handle(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="has no store") as caught:
        async with bus.consuming():
            pass
    assert here(handle) in str(caught.value)


async def test_a_store_in_memory_is_refused_with_more_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bus("memory://", idempotency_store="memory")

    @bus.consumer("orders")
    @idempotent()
    async def handle(order: Order) -> None: ...

    monkeypatch.setenv("UNIBUS_WORKERS", "4")
    assert "4 workers" in await refused(bus)


# --- lifespans ----------------------------------------------------------------------------------------


async def test_a_lifespan_must_say_what_it_yields() -> None:
    async def lifespan():  # type: ignore[no-untyped-def]
        yield 1

    assert "AsyncIterator" in await refused(Bus("memory://", lifespan=lifespan))


async def test_a_lifespan_may_yield_a_type_once() -> None:
    async def lifespan() -> AsyncIterator[tuple[Order, Order]]:
        yield Order(id=1), Order(id=2)

    assert "twice" in await refused(Bus("memory://", lifespan=lifespan))

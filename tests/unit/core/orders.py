"""What most tests of the core send, and a handler that notes it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from unibus import Bus


class Order(BaseModel):
    id: int


def handled(bus: Bus, **options: Any) -> list[int]:
    """Register a handler of `orders` that notes what it gets."""
    seen: list[int] = []

    @bus.consumer("orders", **options)
    async def handle(order: Order) -> None:
        seen.append(order.id)

    return seen

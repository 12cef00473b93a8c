"""The one workload: an order of about 450 bytes."""

from __future__ import annotations

import time
from collections.abc import Callable

from pydantic import BaseModel, TypeAdapter


class Item(BaseModel):
    sku: str
    qty: int
    price: float


class Order(BaseModel):
    order_id: str
    user_id: str
    items: list[Item]
    note: str


def order(number: int) -> Order:
    return Order(
        order_id=f"order-{number}",
        user_id=f"user-{number % 97}",
        items=[Item(sku=f"sku-{line}", qty=line + 1, price=9.99 * (line + 1)) for line in range(5)],
        note="x" * 200,
    )


ORDERS = [order(number) for number in range(512)]
ADAPTER = TypeAdapter(Order)
BODIES = [ADAPTER.dump_json(each) for each in ORDERS]


def seconds_each(call: Callable[[int], object], count: int) -> float:
    started = time.perf_counter()
    for number in range(count):
        call(number % 512)
    return (time.perf_counter() - started) / count


def validate_json(count: int) -> float:
    """Seconds that pydantic takes to validate one payload from bytes: the unit of every figure."""
    return seconds_each(lambda number: ADAPTER.validate_json(BODIES[number]), count)


def encode(count: int) -> float:
    """Seconds that pydantic takes to check one order and to write it as JSON."""

    def one(number: int) -> bytes:
        return ADAPTER.dump_json(ADAPTER.validate_python(ORDERS[number]))

    return seconds_each(one, count)

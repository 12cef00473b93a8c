"""The load that every contender gets, how it is measured, and the check that every order has arrived."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeAlias

from tests.benchmarks.work import ORDERS, Order

TASKS: Final = 64
"""That send at the same time, each one message after another."""
BATCH: Final = 256
"""Messages of one call, for a contender that takes batches instead of many callers."""
PREFETCH: Final = 256
A_SECOND: Final = 500
"""Messages of the paced load."""
COMPARED_EVERY: Final = 64
"""One handled order in so many is kept and compared whole; of all others it is the id that is looked at."""

Figures: TypeAlias = dict[str, float]
Send: TypeAlias = Callable[[Order], Awaitable[object]]


class Incorrect(AssertionError):
    """Orders are missing, came twice, or are not what was sent."""


def order_at(number: int) -> Order:
    return ORDERS[number % len(ORDERS)]


async def drive(send: Send, count: int) -> Figures:
    """Many tasks, each awaiting the confirm of one message before it sends the next."""
    numbers = iter(range(count))

    async def one_after_another() -> None:
        for number in numbers:
            await send(order_at(number))

    began = time.perf_counter()
    await asyncio.gather(*[one_after_another() for _ in range(TASKS)])
    return {"a second": count / (time.perf_counter() - began)}


async def pace(send: Send, count: int) -> Figures:
    """One message at a time, so many a second: how many microseconds each takes."""
    took, due = [], time.perf_counter()
    for number in range(count):
        due += 1 / A_SECOND
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        await send(order_at(number))
        took.append(time.perf_counter() - began)
    took.sort()
    return {"p50 us": took[count // 2] * 1e6, "p99 us": took[count * 99 // 100] * 1e6}


class Handled:
    """What a handler was given. `done` is called at the last one; the rate is from the first to the last."""

    def __init__(self, count: int, done: Callable[[], object]) -> None:
        self._count = count
        self._done = done
        self._ids: list[str] = []  # strings alone: the collector of garbage need not look at them
        self._compared: list[Order] = []
        self._began = self._took = 0.0

    def one(self, order: Order) -> None:
        ids = self._ids
        if not ids:
            self._began = time.perf_counter()
        ids.append(order.order_id)
        if len(ids) % COMPARED_EVERY == 0:
            self._compared.append(order)
        if len(ids) == self._count:
            self._took = time.perf_counter() - self._began
            self._done()

    def figures(self) -> Figures:
        """Raises Incorrect."""
        check(self._ids, self._count)
        check_whole(self._compared)
        return {"a second": self._count / self._took}


def check(ids: Iterable[str], count: int) -> None:
    """Whether these are the ids of the `count` orders that were sent, each as often as it was."""
    seen, expected = Counter(ids), Counter(order_at(number).order_id for number in range(count))
    if seen != expected:
        missing, more = (expected - seen).total(), (seen - expected).total()
        raise Incorrect(f"of {count} orders {missing} are missing, and {more} are there that were not sent")


def check_whole(orders: Iterable[Order]) -> None:
    known = {order.order_id: order for order in ORDERS}
    for order in orders:
        if order != known.get(order.order_id):
            raise Incorrect(f"this is not what was sent: {order!r}")

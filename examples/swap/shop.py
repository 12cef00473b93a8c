"""A shop: a queue with retries, dead letters and idempotency, a topic with patterns, a queue in order by key.

It names no broker. What came of a day in the shop is a list of lines, the same wherever it ran.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from typing import Literal

from pydantic import BaseModel

from unibus import Bus, Message, Queue, Reject, constant, dead_letter, idempotent, retry

Guarantee = Literal["at_least_once", "at_most_once"]
CUSTOMERS = ("ada", "bob", "cyd")
STEPS = ("packed", "shipped", "delivered")
ORDERS = 6
NO_CARD, BANK_AWAY = 5, 3
"""The order that nobody can charge, and the one that is charged at the second attempt."""


class Order(BaseModel):
    id: int
    customer: str


class Step(BaseModel):
    customer: str
    name: str


class Day:
    """What happened, by where it happened."""

    def __init__(self) -> None:
        self.seen: defaultdict[str, list[str]] = defaultdict(list)
        self._news = asyncio.Event()

    def note(self, where: str, what: str) -> None:
        self.seen[where].append(what)
        self._news.set()

    async def complete(self, wanted: dict[str, int]) -> None:
        """Return once so much has happened everywhere."""
        while any(len(self.seen[where]) < count for where, count in wanted.items()):
            self._news.clear()
            await self._news.wait()


def shop(bus: Bus, day: Day, run: str, topics: Guarantee) -> None:
    """Register all handlers. run: begins every name, so that runs on one broker do not meet."""
    orders, charged = f"{run}.orders", bus.publisher(f"{run}.order.charged", type=Order)

    @bus.consumer(orders)
    @dead_letter()
    @idempotent(key=lambda message: message.data.id, store="memory")
    @retry(on=ConnectionError, attempts=3, backoff=constant(0.2))
    async def charge(order: Order, message: Message[Order]) -> None:
        if order.id == NO_CARD:
            raise Reject("no card")
        if order.id == BANK_AWAY and message.attempt == 1:
            raise ConnectionError("the bank is away")
        day.note("charged", f"order {order.id} of {order.customer} at attempt {message.attempt}")
        await charged.publish(order)

    @bus.consumer(f"{orders}.dlq")
    async def bury(order: Order, message: Message[Order]) -> None:
        assert message.dead_letter is not None
        day.note("dead letters", f"order {order.id}: {message.dead_letter.reason}")

    @bus.subscriber(f"{run}.order.*", group=f"{run}.email", guarantee=topics)
    async def mail(order: Order) -> None:
        day.note("mailed", f"order {order.id} to {order.customer}")

    @bus.subscriber(f"{run}.order.#", group=f"{run}.audit", guarantee=topics)
    async def audit(order: Order, message: Message[Order]) -> None:
        day.note("audited", f"order {order.id} on {message.address.removeprefix(run + '.')}")

    @bus.consumer(Queue(f"{run}.steps", ordering="key"))
    async def follow(step: Step) -> None:
        day.note(f"steps of {step.customer}", step.name)


async def story(url: str, topics: Guarantee = "at_least_once") -> list[str]:
    """A day in the shop. Raises UnsupportedCapability where the broker cannot promise what it needs."""
    run, day, bus = f"swap-{uuid.uuid4().hex[:8]}", Day(), Bus(url)
    shop(bus, day, run, topics)
    orders = [Order(id=number, customer=CUSTOMERS[number % 3]) for number in range(ORDERS)]
    steps = [Step(customer=customer, name=name) for name in STEPS for customer in CUSTOMERS]
    async with bus.consuming():
        await bus.producer(f"{run}.orders", type=Order).send_many([*orders, orders[0], orders[1]])
        await bus.producer(Queue(f"{run}.steps", ordering="key"), type=Step).send_many(
            steps, key=lambda step: step.customer
        )
        await day.complete({"charged": ORDERS - 1, "dead letters": 1, "mailed": ORDERS - 1, "audited": ORDERS - 1})
        await day.complete({f"steps of {customer}": len(STEPS) for customer in CUSTOMERS})
    return told(day)


def told(day: Day) -> list[str]:
    """In an order of its own, but for what has one."""
    lines = []
    for where in sorted(day.seen):
        ordered = where.startswith("steps of")
        lines += [f"{where:14} {what}" for what in (day.seen[where] if ordered else sorted(day.seen[where]))]
    return lines

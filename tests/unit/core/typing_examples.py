"""Never run: mypy --strict reads it, so that every handler shape and every call stays typed."""

from __future__ import annotations

from typing import Any, assert_type

from pydantic import BaseModel

from unibus import (
    Bus,
    Handler,
    Message,
    Middleware,
    dead_letter,
    exponential,
    idempotent,
    rate_limit,
    retry,
    timeout,
    use,
)
from unibus.producer import Producer, Publisher


class Order(BaseModel):
    id: int


class Paid(BaseModel):
    id: int


bus = Bus("memory://")


def noting(inner: Handler) -> Handler:
    async def run(message: Message[Any]) -> object:
        return await inner(message)

    return run


checked: Middleware = noting


@bus.consumer("orders", concurrency=50)
@dead_letter()
@rate_limit(100, per=1.0)
@idempotent(key=lambda message: message.data.id, store="memory")
@retry(on=(ConnectionError, TimeoutError), attempts=5, backoff=exponential(1, max=60), budget=0.2)
@retry(on=KeyError, backoff=lambda failures: failures * 2.5, retry_if=lambda error: bool(error.args))
@timeout(10)
@use(noting)
async def charge(order: Order, message: Message[Order]) -> str:
    return message.id


@bus.subscriber("user.*", "order.completed", group="email")
def mail(event: Order | Paid) -> None: ...


@bus.consumer("batches", max_batch=100)
@retry(on=ConnectionError)
async def many(messages: list[Message[Order]]) -> None:
    messages[0].retry(after=5)


async def main(order: Order, message: Message[Order]) -> None:
    assert_type(await charge(order, message), str)
    assert_type(bus.producer("orders", Order), Producer[Order])
    assert_type(bus.publisher("order.created", Order), Publisher[Order])
    assert_type(await bus.producer("orders", Order).send(order, key="k", delay=5), str)
    await bus.producer("orders", Order).send(Paid(id=1))  # type: ignore[arg-type]
    await bus.producer("orders").send_many([order], key=lambda order: str(order.id))
    async with bus.pull(queue="orders", type=Order) as deliveries:
        async for delivery in deliveries:
            assert_type(delivery.data, Order)
            await delivery.ack()

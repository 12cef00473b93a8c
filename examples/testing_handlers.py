"""Testing one's own handlers: on memory, with a clock that the test moves, so that nothing sleeps.

Run it as it stands, or with pytest and pytest-asyncio in auto mode: pytest examples/testing_handlers.py
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from unibus import Bus, Message, constant, retry
from unibus.testing import app, message


class Order(BaseModel):
    id: int


bus = Bus()  # the program's own, on whatever broker its configuration names


@bus.consumer("orders")
@retry(on=ConnectionError, attempts=3, backoff=constant(3600))
async def ship(order: Order, message: Message[Order], bus: Bus) -> None:
    if order.id == 13 or message.attempt == 1:
        raise ConnectionError("the warehouse does not answer")
    await bus.publisher("order.shipped", type=Order).publish(order)


async def test_that_it_ships_at_the_second_attempt() -> None:
    async with app(bus) as t:
        await t.send("orders", Order(id=7))
        await t.settled()  # the hour between the attempts passes at once
        assert [sent.data(Order) for sent in t.sent("order.shipped")] == [Order(id=7)]
        assert t.dead_letters("orders") == []


async def test_that_it_gives_up_after_three() -> None:
    async with app(bus) as t:
        await t.send("orders", Order(id=13))
        await t.settled()
        (letter,) = t.dead_letters("orders")
        assert letter.dead_letter is not None
        assert letter.dead_letter.attempts == 3


async def test_that_a_decorated_handler_is_still_a_function() -> None:
    async with app(bus) as t:
        await ship(Order(id=7), message(Order(id=7), attempt=2), bus)
        assert len(t.sent("order.shipped")) == 1


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            asyncio.run(test())
            print(f"{name}: passed")

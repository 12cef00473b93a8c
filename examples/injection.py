"""What handlers need, opened once per process: the lifespan yields it, the annotation asks for it."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing

from pydantic import BaseModel

from examples.running import run
from unibus import Bus, Message


class Order(BaseModel):
    id: int
    customer: str


async def lifespan() -> AsyncIterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, message TEXT)")
        print("database opened, before the first message")
        yield database
    print("database closed, after the last one")


bus = Bus("memory://", lifespan=lifespan)
saved: asyncio.Queue[str] = asyncio.Queue()


@bus.consumer("orders")
async def save(order: Order, database: sqlite3.Connection, message: Message[Order], bus: Bus) -> None:
    database.execute("INSERT INTO orders VALUES (?, ?, ?)", (order.id, order.customer, message.id))
    (count,) = database.execute("SELECT count(*) FROM orders").fetchone()
    saved.put_nowait(f"order {order.id} of {order.customer} saved by {bus.name}, {count} in all")


async def main() -> None:
    async with bus.consuming():
        await bus.producer("orders", type=Order).send(Order(id=1, customer="Ada"))
        await bus.producer("orders", type=Order).send(Order(id=2, customer="Bob"))
        for _ in range(2):
            print(await saved.get())


if __name__ == "__main__":
    run(bus, main)

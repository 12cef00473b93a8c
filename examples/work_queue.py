"""A queue: each order goes to one handler, three are packed at once.

The same bus in four processes, on a broker that they share: unibus run examples.work_queue:bus --workers 4
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from examples.running import run
from unibus import Bus


class Order(BaseModel):
    id: int
    items: int


bus = Bus("memory://")
packed: asyncio.Queue[Order] = asyncio.Queue()


@bus.consumer("orders", concurrency=3)
async def pack(order: Order) -> None:
    await asyncio.sleep(order.items / 20)
    packed.put_nowait(order)


async def main() -> None:
    orders = [Order(id=1, items=6), Order(id=2, items=1), Order(id=3, items=3), Order(id=4, items=1)]
    async with bus.consuming():
        sent = await bus.producer("orders", type=Order).send_many(orders)
        print(f"{sent} orders sent")
        for _ in orders:
            order = await packed.get()
            print(f"order {order.id} packed, {order.items} items")


if __name__ == "__main__":
    run(bus, main)

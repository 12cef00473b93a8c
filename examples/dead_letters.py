"""What fails for good becomes a dead letter, with its reason. It is read by pulling, mended, and sent again."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from examples.running import run
from unibus import Bus, constant, dead_letter, retry
from unibus.dead_letters import DeadLetter


class Order(BaseModel):
    id: int
    street: str


bus = Bus("memory://")
shipped: asyncio.Queue[Order] = asyncio.Queue()


@bus.consumer("orders")
@dead_letter()  # to the queue orders.dlq; that is the default, too
@retry(on=ValueError, attempts=3, backoff=constant(0.05))
async def ship(order: Order) -> None:
    if not order.street:
        raise ValueError("no street")
    shipped.put_nowait(order)


async def main() -> None:
    async with bus.consuming():
        producer = bus.producer("orders", type=Order)
        await producer.send(Order(id=1, street=""))
        async with bus.pull(queue="orders.dlq", type=Order) as deliveries:
            delivery = await anext(deliveries)
            record = DeadLetter.from_attributes(delivery.message.attributes)
            assert record is not None
            print(f"order {delivery.data.id} is a dead letter after {record.attempts} attempts: {record.reason}")
            print(f"  {record.error_type}: {record.message}, raised by {record.handler}")
            await producer.send(delivery.data.model_copy(update={"street": "Mill Lane 2"}))
            await delivery.ack()  # after the confirmed send: a crash in between would send it twice, never lose it
        order = await shipped.get()
        print(f"order {order.id} shipped to {order.street}")


if __name__ == "__main__":
    run(bus, main)

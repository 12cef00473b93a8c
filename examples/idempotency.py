"""A message may come twice; its effect must not. The key says which two are the same.

With more than one process, give them a store that they share in place of "memory".
"""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from examples.running import run
from unibus import Bus, constant, idempotent, retry


class Payment(BaseModel):
    order: int
    customer: str
    amount: int


bus = Bus("memory://")
failures = [ConnectionError("the bank does not answer")]
charged: asyncio.Queue[Payment] = asyncio.Queue()


@bus.consumer("payments", concurrency=1)
@idempotent(key=lambda message: message.data.order, store="memory")
@retry(on=ConnectionError, backoff=constant(0.05))
async def charge(payment: Payment) -> None:
    if failures:
        raise failures.pop()  # a failure gives the key back, so that the next attempt is no duplicate
    charged.put_nowait(payment)


async def main() -> None:
    seven, eight = Payment(order=7, customer="Ada", amount=30), Payment(order=8, customer="Ada", amount=12)
    async with bus.consuming():
        producer = bus.producer("payments", type=Payment)
        await producer.send(seven)
        print("charged:", await charged.get())
        # Again, as by a sender that saw no answer. The key keeps them in a row where there are partitions.
        await producer.send_many([seven, seven, eight], key=lambda payment: payment.customer)
        print("charged:", await charged.get())
        stats = bus.stats()["payments"]
        print(f"retried {stats.retried}, duplicates skipped {stats.skipped}")


if __name__ == "__main__":
    run(bus, main)

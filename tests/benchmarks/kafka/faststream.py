"""FastStream, as its documentation shows it."""

from __future__ import annotations

import asyncio

from faststream import AckPolicy
from faststream.kafka import KafkaBroker

from tests.benchmarks.kafka.server import servers
from tests.benchmarks.load import Figures, Handled, drive
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order


async def publish(task: Task) -> Figures:
    async with KafkaBroker(servers(task.url), logger=None, acks="all", linger_ms=2) as broker:
        await broker.start()
        return await drive(
            lambda order: broker.publish(order, topic=task.name, key=order.order_id.encode()), task.count
        )


fill = publish


async def consume(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    broker = KafkaBroker(servers(task.url), logger=None)

    async def handle(order: Order) -> None:
        handled.one(order)

    # Acked, which is committed, after each message: its only policy that loses nothing when the process is killed.
    broker.subscriber(
        task.name, group_id=f"faststream-{task.name}", auto_offset_reset="earliest",
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )(handle)  # fmt: skip
    async with broker:
        await broker.start()
        await done.wait()
    return handled.figures()

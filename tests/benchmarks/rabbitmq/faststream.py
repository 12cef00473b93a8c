"""FastStream, as its documentation shows it."""

from __future__ import annotations

import asyncio

from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

from tests.benchmarks.load import PREFETCH, Figures, Handled, drive
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order


async def publish(task: Task) -> Figures:
    queue = RabbitQueue(task.name, declare=False)
    async with RabbitBroker(task.url, logger=None) as broker:
        return await drive(lambda order: broker.publish(order, queue=queue, persist=True), task.count)


async def consume(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    broker = RabbitBroker(task.url, logger=None, default_channel=Channel(prefetch_count=PREFETCH))

    async def handle(order: Order) -> None:
        handled.one(order)

    broker.subscriber(RabbitQueue(task.name, declare=False))(handle)
    async with broker:
        await broker.start()
        await done.wait()
    return handled.figures()

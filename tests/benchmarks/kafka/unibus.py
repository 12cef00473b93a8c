"""unibus, as its README shows it: retries and dead letters are on, as they are for everybody."""

from __future__ import annotations

import asyncio
import time

from tests.benchmarks.load import PREFETCH, Figures, Handled, drive, order_at
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order
from unibus import Bus, Queue


async def publish(task: Task) -> Figures:
    async with Bus(task.url) as bus:
        producer = bus.producer(task.name, type=Order)
        return await drive(lambda order: producer.send(order, key=order.order_id), task.count)


async def send_many(task: Task) -> Figures:
    async with Bus(task.url) as bus:
        producer = bus.producer(task.name, type=Order)
        began = time.perf_counter()
        await producer.send_many(map(order_at, range(task.count)), key=lambda order: order.order_id)
        return {"a second": task.count / (time.perf_counter() - began)}


fill = send_many


async def consume(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    bus, queue = Bus(task.url), Queue(task.name)

    @bus.consumer(queue, prefetch=PREFETCH)
    async def handle(order: Order) -> None:
        handled.one(order)

    async with bus.consuming():
        await done.wait()
        assert not (await bus.depth(queue.dead_letters)).ready
    return handled.figures()

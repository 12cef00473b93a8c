"""unibus, as its README shows it: retries and dead letters are on, as they are for everybody."""

from __future__ import annotations

import asyncio
import time

from tests.benchmarks.load import PREFETCH, Figures, Handled, drive, order_at
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order
from unibus import Bus, Queue
from unibus.driver import Topology


async def publish(task: Task) -> Figures:
    async with Bus(task.url) as bus:
        await _declare(bus, task)
        return await drive(bus.producer(task.name, type=Order).send, task.count)


async def send_many(task: Task) -> Figures:
    async with Bus(task.url) as bus:
        await _declare(bus, task)
        began = time.perf_counter()
        await bus.producer(task.name, type=Order).send_many(map(order_at, range(task.count)))
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


async def pubsub(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    bus = Bus(task.url.replace("redis://", "redis+pubsub://"))

    @bus.subscriber(task.name, guarantee="at_most_once")
    async def handle(order: Order) -> None:
        handled.one(order)

    async with bus.consuming():
        await drive(bus.publisher(task.name, type=Order).publish, task.count)
        await done.wait()
    return handled.figures()


async def _declare(bus: Bus, task: Task) -> None:
    """As its consumer would."""
    await bus.driver.declare(Topology(create=(Queue(task.name),)))

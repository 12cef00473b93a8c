"""unibus, as its README shows it: retries and dead letters are on, as they are for everybody."""

from __future__ import annotations

import asyncio

import aiormq

from tests.benchmarks.load import PREFETCH, Figures, Handled, drive, pace
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order
from unibus import Bus, Queue


async def publish(task: Task) -> Figures:
    async with Bus(task.url) as bus:
        return await drive(bus.producer(task.name, type=Order).send, task.count)


async def paced(task: Task) -> Figures:
    async with Bus(task.url) as bus:
        return await pace(bus.producer(task.name, type=Order).send, task.count)


async def consume(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    bus, queue = Bus(task.url), Queue(f"{task.name}.own", physical=task.name)

    @bus.consumer(queue, prefetch=PREFETCH)
    async def handle(order: Order) -> None:
        handled.one(order)

    async with bus.consuming():
        await done.wait()
        assert not (await bus.depth(queue.dead_letters)).ready
    await delete(task.url, queue.dead_letters.name)
    return handled.figures()


async def delete(url: str, queue: str) -> None:
    """The queue of dead letters, which the consumer made."""
    connection = await aiormq.connect(url)
    await (await connection.channel()).queue_delete(queue)
    await connection.close()

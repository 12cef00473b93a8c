"""unibus with `idempotent` on the handler: each message's key is claimed before and completed after it."""

from __future__ import annotations

import asyncio

from tests.benchmarks.load import PREFETCH, Figures, Handled
from tests.benchmarks.rabbitmq.unibus import delete, publish
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order
from unibus import Bus, Queue, idempotent

__all__ = ["consume", "publish"]


async def consume(task: Task) -> Figures:
    """The orders come again and again, so the key is the message's own id."""
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    bus, queue = Bus(task.url), Queue(f"{task.name}.own", physical=task.name)

    @bus.consumer(queue, prefetch=PREFETCH, concurrency=64)
    @idempotent(key=lambda message: message.id, store=task.store)
    async def handle(order: Order) -> None:
        handled.one(order)

    async with bus.consuming():
        await done.wait()
        assert not (await bus.depth(queue.dead_letters)).ready
    await delete(task.url, queue.dead_letters.name)
    return handled.figures()

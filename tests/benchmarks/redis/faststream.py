"""FastStream, as its documentation shows it."""

from __future__ import annotations

import asyncio

from faststream.redis import RedisBroker, StreamSub

from tests.benchmarks.load import PREFETCH, Figures, Handled, drive
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order


async def publish(task: Task) -> Figures:
    async with RedisBroker(task.url, logger=None) as broker:
        return await drive(lambda order: broker.publish(order, stream=task.name), task.count)


fill = publish


async def consume(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    broker = RedisBroker(task.url, logger=None)

    async def handle(order: Order) -> None:
        handled.one(order)

    broker.subscriber(stream=StreamSub(task.name, group="handlers", consumer="me", last_id=">", max_records=PREFETCH))(
        handle
    )
    async with broker:
        await _group(broker, task.name)
        await broker.start()
        await done.wait()
    return handled.figures()


async def pubsub(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    broker = RedisBroker(task.url, logger=None)

    async def handle(order: Order) -> None:
        handled.one(order)

    broker.subscriber(task.name)(handle)
    async with broker:
        await broker.start()
        await drive(lambda order: broker.publish(order, channel=task.name), task.count)
        await done.wait()
    return handled.figures()


async def _group(broker: RedisBroker, stream: str) -> None:
    """From the beginning: left to itself it would create one that begins at the end."""
    from redis.asyncio import Redis

    client = Redis.from_url(broker.specification.url[0])
    await client.xgroup_create(stream, "handlers", id="0")
    await client.aclose()

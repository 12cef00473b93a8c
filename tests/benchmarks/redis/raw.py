"""redis-py, as a careful user writes it by hand: the measure of all others."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis

from tests.benchmarks.load import PREFETCH, Figures, Handled, drive, order_at
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order

GROUP = "handlers"


async def publish(task: Task) -> Figures:
    async with Redis.from_url(task.url) as client:

        async def send(order: Order) -> None:
            await client.xadd(task.name, {"data": order.model_dump_json()})

        return await drive(send, task.count)


async def fill(task: Task) -> Figures:
    async with Redis.from_url(task.url) as client:
        for start in range(0, task.count, 1000):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, min(start + 1000, task.count)):
                pipeline.xadd(task.name, {"data": order_at(number).model_dump_json()})
            await pipeline.execute()
    return {}


async def consume(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    client: Any  # which types its answers as all that any command may answer
    async with Redis.from_url(task.url) as client:
        await client.xgroup_create(task.name, GROUP, id="0")
        while not done.is_set():
            for _, entries in await client.xreadgroup(GROUP, "me", {task.name: ">"}, count=PREFETCH, block=500):
                for entry_id, fields in entries:
                    handled.one(Order.model_validate_json(fields[b"data"]))
                    await client.xack(task.name, GROUP, entry_id)
    return handled.figures()


async def pubsub(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    async with Redis.from_url(task.url) as client, client.pubsub() as subscription:
        await subscription.subscribe(task.name)

        async def listen() -> None:
            async for message in subscription.listen():
                if message["type"] == "message":
                    handled.one(Order.model_validate_json(message["data"]))
                    if done.is_set():
                        return

        async def send(order: Order) -> None:
            await client.publish(task.name, order.model_dump_json())

        listening = asyncio.create_task(listen())
        await drive(send, task.count)
        await listening
    return handled.figures()

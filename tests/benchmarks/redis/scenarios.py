"""What a contender has to do, and what is checked when it says that it is done.

The keys of a turn are looked at afterwards by a connection that no contender has, and deleted.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from redis.asyncio import Redis

from tests.benchmarks.contest import Contender
from tests.benchmarks.load import Figures
from tests.benchmarks.redis import inspection
from tests.benchmarks.task import Task


class Scenarios:
    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self.count = count

    async def publish(self, contender: Contender) -> Figures:
        return await self._sending(contender, "publish")

    async def send_many(self, contender: Contender) -> Figures:
        return await self._sending(contender, "send_many")

    async def consume(self, contender: Contender) -> Figures:
        """What it consumes it has published itself, untimed: each has a form of its own."""
        async with self._stream() as (client, task):
            await contender.run("fill", task)
            assert await client.xlen(task.name) == self.count
            figures = await contender.run("consume", task)
            await inspection.is_settled(client, task.name)
        return figures

    async def pubsub(self, contender: Contender) -> Figures:
        async with self._stream() as (_, task):
            return await contender.run("pubsub", task)

    async def _sending(self, contender: Contender, function: str) -> Figures:
        async with self._stream() as (client, task):
            figures = await contender.run(function, task)
            await inspection.read_back(client, task.name, self.count)
        return figures

    @asynccontextmanager
    async def _stream(self) -> AsyncIterator[tuple[Redis, Task]]:
        client, name = Redis.from_url(self._url), f"bench-{uuid.uuid4().hex}"
        try:
            yield client, Task(self._url, name, self.count)
        finally:
            async for key in client.scan_iter(match=f"*{name}*", count=1000):
                await client.delete(key)
            await client.aclose()

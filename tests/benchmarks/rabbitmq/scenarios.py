"""What a contender has to do, and what is checked when it says that it is done.

The queue of a turn is made here, and looked at before and after by a connection that no contender has.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aio_pika

from tests.benchmarks.contest import Contender
from tests.benchmarks.load import Figures
from tests.benchmarks.rabbitmq import inspection
from tests.benchmarks.task import Task

PACED: Final = 2_000
"""Messages of a paced turn, at most: four seconds of them."""


class Scenarios:
    """filler: publishes what is consumed; None: each contender does it for itself, untimed. store: the URL of a Redis
    for keys that were handled."""

    def __init__(
        self, url: str, queue_type: str, count: int, filler: Contender | None = None, store: str | None = None
    ) -> None:
        self._url = url
        self._filler = filler
        self._store = store
        self.queue_type = queue_type
        self.count = count
        self.paced_count = min(count, PACED)

    async def publish(self, contender: Contender) -> Figures:
        return await self._sending(contender, "publish", self.count)

    async def paced(self, contender: Contender) -> Figures:
        return await self._sending(contender, "paced", self.paced_count)

    async def consume(self, contender: Contender) -> Figures:
        async with self._queue() as (channel, name):
            task = Task(self._url, name, self.count, self._store)
            await (self._filler or contender).run("publish", task)
            await inspection.holds(channel, name, self.count)
            figures = await contender.run("consume", task)
            await inspection.is_settled(channel, name)
        return figures

    async def _sending(self, contender: Contender, function: str, count: int) -> Figures:
        async with self._queue() as (channel, name):
            figures = await contender.run(function, Task(self._url, name, count))
            await inspection.holds(channel, name, count)
            await inspection.read_back(channel, name, count)
        return figures

    @asynccontextmanager
    async def _queue(self) -> AsyncIterator[tuple[aio_pika.abc.AbstractChannel, str]]:
        async with await aio_pika.connect(self._url) as connection:
            channel, name = await connection.channel(), f"bench-{uuid.uuid4().hex}"
            await channel.declare_queue(name, durable=True, arguments={"x-queue-type": self.queue_type})
            try:
                yield channel, name
            finally:
                await channel.queue_delete(name)

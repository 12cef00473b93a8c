"""What a contender has to do, and what is checked when it says that it is done.

The topic of a turn is made here, and looked at afterwards by a client that no contender has.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.benchmarks.contest import Contender
from tests.benchmarks.kafka import inspection
from tests.benchmarks.kafka.server import servers
from tests.benchmarks.load import Figures
from tests.benchmarks.task import Task

PARTITIONS: Final = 4


class Scenarios:
    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self.count = count

    async def publish(self, contender: Contender) -> Figures:
        return await self._sending(contender, "publish")

    async def send_many(self, contender: Contender) -> Figures:
        return await self._sending(contender, "send_many")

    async def consume(self, contender: Contender) -> Figures:
        """What it consumes it has published itself, untimed: each has headers of its own."""
        async with self._topic() as (admin, task):
            await contender.run("fill", task)
            await inspection.read_back(self._url, task.name, self.count)
            figures = await contender.run("consume", task)
            await inspection.is_committed(admin, self._url, task.name, self.count)
        return figures

    async def _sending(self, contender: Contender, function: str) -> Figures:
        async with self._topic() as (_, task):
            figures = await contender.run(function, task)
            await inspection.read_back(self._url, task.name, self.count)
        return figures

    @asynccontextmanager
    async def _topic(self) -> AsyncIterator[tuple[Any, Task]]:
        admin, name = AIOKafkaAdminClient(bootstrap_servers=servers(self._url)), f"bench-{uuid.uuid4().hex}"
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, PARTITIONS, 1)])
            await inspection.is_there(admin, name)
            yield admin, Task(self._url, name, self.count)
        finally:
            await admin.delete_topics([topic for topic in await admin.list_topics() if name in topic])
            await admin.close()

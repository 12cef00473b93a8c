"""Kafka, as the scenarios have to know it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from tests.faults.server import Bounds, Server
from unibus import Queue

SESSION = 6.0
WATCHED_EVERY = 0.1


class KafkaTools:
    async def delete(self, url: str, queue: str) -> int:
        servers = url.partition("://")[2].partition("?")[0]
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        try:
            (found,) = await admin.describe_topics([queue])
            partitions = [TopicPartition(queue, part["partition"]) for part in found["partitions"]]
            done = await admin.list_consumer_group_offsets(f"unibus.queue.{queue}", partitions=partitions)
            async with AIOKafkaConsumer(bootstrap_servers=servers) as consumer:
                ends = await consumer.end_offsets(partitions)
            await admin.delete_topics([queue])
        finally:
            await admin.close()
        return sum(ends[each] - max(done[each].offset if each in done else 0, 0) for each in partitions)


@asynccontextmanager
async def committed(url: str, queue: str) -> AsyncIterator[Sequence[str]]:
    """Offsets that a group has committed may only rise: what is below one is never read again."""
    complaints: list[str] = []
    watching = asyncio.create_task(_watch(url.partition("://")[2].partition("?")[0], queue, complaints))
    try:
        yield complaints
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        if not watching.cancelled():
            watching.result()


async def _watch(servers: str, queue: str, complaints: list[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    before: dict[TopicPartition, int] = {}
    try:
        while True:
            await asyncio.sleep(WATCHED_EVERY)
            try:
                found = await asyncio.wait_for(admin.list_consumer_group_offsets(f"unibus.queue.{queue}"), 5)
            except (KafkaError, TimeoutError):
                continue  # the node is down, which is what happens here
            now = {partition: entry.offset for partition, entry in found.items() if partition.topic == queue}
            for partition, offset in now.items():
                if offset < before.get(partition, 0):
                    complaints.append(f"{before[partition]} was committed for {partition}, and later {offset}")
            before = now  # a partition that is no longer there was deleted, and may begin anew
    finally:
        await admin.close()


# A dead member is noticed when its session has run out; then all others join again.
BOUNDS = Bounds(recovery=15.0, publish=12.0, redelivery=3 * SESSION, silence=SESSION)
OPTIONS = f"?session={SESSION:g}&metadata_age=1"
UNDELIVERABLE = Queue("undeliverable", physical="unibus.undeliverable")
DOORS = ((2, 3), (4, 5))

KAFKA = Server("kafka", KafkaTools(), BOUNDS, UNDELIVERABLE, OPTIONS, DOORS, committed)
KAFKA_CLUSTER = Server("kafka-cluster", KafkaTools(), BOUNDS, UNDELIVERABLE, OPTIONS, watch=committed)

"""Kafka, as the scenarios have to know it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest

from tests.faults.kafka_commits import committed
from tests.faults.server import Bounds, Server
from unibus import Queue

SESSION = 4.0


@asynccontextmanager
async def administering(url: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers_of(url))
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


def servers_of(url: str) -> str:
    return url.partition("://")[2].partition("?")[0]


def group_of(queue: str) -> str:
    return f"unibus.queue.{queue}"


class KafkaTools:
    async def delete(self, url: str, queue: str) -> int:
        async with administering(url) as admin:
            partitions = [TopicPartition(queue, number) for number in await leaders(admin, queue)]
            done = await admin.list_consumer_group_offsets(group_of(queue), partitions=partitions)
            async with AIOKafkaConsumer(bootstrap_servers=servers_of(url)) as consumer:
                ends = await consumer.end_offsets(partitions)
            await admin.delete_topics([queue])
        return sum(ends[each] - max(done[each].offset if each in done else 0, 0) for each in partitions)


async def leaders(admin: AIOKafkaAdminClient, queue: str) -> dict[int, int]:
    """Which node leads each partition."""
    (found,) = await admin.describe_topics([queue])
    return {part["partition"]: part["leader"] for part in found["partitions"]}


async def coordinator(admin: AIOKafkaAdminClient, queue: str) -> int:
    """The node that keeps the books of the group that consumes a queue."""
    return int(await admin.find_coordinator(group_of(queue)))


async def move_leaders(admin: AIOKafkaAdminClient, queue: str) -> None:
    """To the next replica of each partition: it is preferred from now on, and soon elected."""
    (found,) = await admin.describe_topics([queue])
    turned: list[Any] = [
        (part["partition"], [*part["replicas"][1:], part["replicas"][0]], {})
        for part in found["partitions"]
    ]  # fmt: skip
    answer = await admin._send_to_controller(AlterPartitionReassignmentsRequest(10_000, [(queue, turned, {})], {}))
    if answer.error_code:
        raise for_code(answer.error_code)(answer.error_message)


# A dead member is noticed when its session has run out; then all others end what they have in hand, and join again.
# Commits are made half a second apart. When one is not made within a second no more is begun, from the next look on.
BOUNDS = Bounds(recovery=15.0, publish=12.0, redelivery=4 * SESSION, silence=SESSION, uncommitted=1.25)
# Handlers have as long as the slowest scenario wants: three sessions. Attempts to send end within a black hole.
OPTIONS = f"?session={SESSION:g}&revoke={4 * SESSION:g}&metadata_age=1&timeout=8"
UNDELIVERABLE = Queue("undeliverable", physical="unibus.undeliverable")
DOORS = ((2, 3), (4, 5))

KAFKA = Server("kafka", KafkaTools(), BOUNDS, UNDELIVERABLE, OPTIONS, DOORS, committed)
KAFKA_CLUSTER = Server("kafka-cluster", KafkaTools(), BOUNDS, UNDELIVERABLE, OPTIONS, watch=committed)

"""What is in a topic after a turn, and what is committed, whatever the contender believes.

Raises AssertionError or TimeoutError.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.benchmarks.kafka.server import servers
from tests.benchmarks.load import check, check_whole
from tests.benchmarks.work import Order

PATIENCE: Final = 10.0


async def is_there(admin: Any, topic: str) -> None:
    """Return once the server lists it with a leader for every partition."""
    async with asyncio.timeout(PATIENCE):
        while True:
            (found,) = await admin.describe_topics([topic])
            if not found["error_code"] and all(part["leader"] >= 0 for part in found["partitions"]):
                return
            await asyncio.sleep(0.05)


async def read_back(url: str, topic: str, count: int) -> None:
    """All records are the orders that were sent."""
    orders: list[Order] = []
    async with AIOKafkaConsumer(bootstrap_servers=servers(url), auto_offset_reset="earliest") as consumer:
        partitions = await _partitions(consumer, topic)
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        assert sum(ends.values()) == count, f"{sum(ends.values())} records are in the topic, not {count}"
        async with asyncio.timeout(PATIENCE + count / 5_000):
            while len(orders) < count:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    orders += [Order.model_validate_json(record.value) for record in records]
    check((order.order_id for order in orders), count)
    check_whole(orders)


async def is_committed(admin: Any, url: str, topic: str, count: int) -> None:
    """The one group that has read the topic has committed all of it."""
    async with AIOKafkaConsumer(bootstrap_servers=servers(url)) as consumer:
        partitions = await _partitions(consumer, topic)
    groups = [group for group, _ in await admin.list_consumer_groups() if topic in group]
    committed = 0
    for group in groups:
        offsets = await admin.list_consumer_group_offsets(group, partitions=partitions)
        committed += sum(max(offsets[partition].offset, 0) for partition in partitions if partition in offsets)
    assert committed == count, f"{committed} of {count} records are committed, by {groups}"


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    await consumer._client.force_metadata_update()
    consumer._client.add_topic(topic)
    async with asyncio.timeout(PATIENCE):
        while not (found := consumer.partitions_for_topic(topic)):
            await consumer._client.force_metadata_update()
    return [TopicPartition(topic, number) for number in sorted(found)]

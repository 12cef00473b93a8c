"""Offsets that a group has committed may only rise: what is below one is never read again.

Looked for where the cluster keeps them, in the log of all commits: whoever asks for an offset gets now and then an
older one, of a node that has just begun to keep the books, and misses what is committed between two questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.protocol.types import CompactString, Int16, Int32, Int64, String

LOG = "__consumer_offsets"
OFFSETS = (0, 1)
"""Versions of the keys of commits; others are of members of groups."""
FLEXIBLE = 4
"""The first version of a commit with compact strings."""
NOTHING_SEEN = "no commit of the group was seen"


class Commit(NamedTuple):
    """note: what stands beside the offset."""

    partition: TopicPartition
    offset: int
    note: str


@asynccontextmanager
async def committed(url: str, queue: str) -> AsyncIterator[Sequence[str]]:
    """What was wrong, as long as it is watched."""
    complaints = [NOTHING_SEEN]
    servers = url.partition("://")[2].partition("?")[0]
    async with AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="latest") as consumer:
        consumer.assign(await _partitions(servers))
        await consumer.seek_to_end()
        watching = asyncio.create_task(_watch(consumer, queue, complaints))
        try:
            yield complaints
        finally:
            watching.cancel()
            await asyncio.wait([watching])
            if not watching.cancelled():
                watching.result()


async def _partitions(servers: str) -> list[TopicPartition]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        (found,) = await admin.describe_topics([LOG])
    finally:
        await admin.close()
    return [TopicPartition(LOG, part["partition"]) for part in found["partitions"]]


async def _watch(consumer: AIOKafkaConsumer, queue: str, complaints: list[str]) -> None:
    before: dict[tuple[TopicPartition, str], int] = {}
    while True:
        try:
            found = await consumer.getmany(timeout_ms=200)
        except KafkaError:
            continue  # a node is down, which is what happens here
        for record in [record for records in found.values() for record in records]:
            commit = commit_of(record.key, record.value)
            if commit is None or commit.partition.topic != queue:
                continue
            if NOTHING_SEEN in complaints:
                complaints.remove(NOTHING_SEEN)
            # By the stamp of the topic for which it was committed: one that is made anew begins anew.
            place = commit.partition, commit.note.partition("@")[2]
            if commit.offset < before.get(place, 0):
                complaints.append(f"{before[place]} was committed for {commit.partition}, and later {commit.offset}")
            before[place] = commit.offset


def commit_of(key: bytes | None, value: bytes | None) -> Commit | None:
    """None: it is of something else, or takes back what was committed."""
    if key is None or value is None:
        return None
    data = BytesIO(key)
    if Int16.decode(data) not in OFFSETS:
        return None
    text: Any = String("utf-8")
    group, topic, number = text.decode(data), text.decode(data), Int32.decode(data)
    if group != f"unibus.queue.{topic}":
        return None
    data = BytesIO(value)
    version, offset = Int16.decode(data), Int64.decode(data)
    if version >= FLEXIBLE - 1:
        Int32.decode(data)  # the leader's epoch
    text = CompactString("utf-8") if version >= FLEXIBLE else text
    return Commit(TopicPartition(topic, number), offset, text.decode(data) or "")

"""Looking at what a group has not settled yet, without being of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka.structs import TopicPartition

from unibus.driver import Delivery, Source, TopicSubscription
from unibus_kafka.cluster import Cluster
from unibus_kafka.consumer import FETCH_WAIT, Member
from unibus_kafka.endpoint import Endpoint
from unibus_kafka.failures import translated
from unibus_kafka.patterns import group_of, topic_of
from unibus_kafka.records import Place, delivery_of, was_sent_to_queue
from unibus_kafka.topics import Topics

PATIENCE = 10.0
"""Seconds for a record that should be there."""


class Browsing:
    """Partition after partition. A cursor is `topic/partition/offset` of what comes next."""

    def __init__(self, endpoint: Endpoint, cluster: Cluster, topics: Topics) -> None:
        self._endpoint = endpoint
        self._cluster = cluster
        self._topics = topics

    async def page(self, source: Source, after: str | None, limit: int) -> tuple[Sequence[Delivery], str | None]:
        shown: list[Delivery] = []
        places = await self._places(source, after)
        if not places:
            return shown, None
        reader = Member(self._endpoint, None)
        with translated(f"browsing {source}"):
            await reader.start_alone()
            try:
                for tp, (begin, end) in places.items():
                    following = await self._read(reader, source, tp, begin, end, limit - len(shown), shown)
                    if following < end:
                        return shown, f"{tp.topic}/{tp.partition}/{following}"
            finally:
                await reader.stop()
        return shown, None

    async def _places(self, source: Source, after: str | None) -> dict[TopicPartition, tuple[int, int]]:
        """Where each partition that has something is read from, and up to where."""
        names = await self._topics.matching(source) if isinstance(source, TopicSubscription) else [topic_of(source)]
        tps = sorted(await self._topics.partitions_of(names))
        committed = await self._cluster.committed(group_of(source), tps)
        firsts, ends = await self._cluster.offsets(tps, "first"), await self._cluster.offsets(tps, "end")
        topic, partition, offset = after.rsplit("/", 2) if after is not None else ("", "-1", "0")
        resumed = TopicPartition(topic, int(partition))
        places = {}
        for tp in tps:
            begin = max(committed.get(tp, (0, ""))[0], firsts[tp], int(offset) if tp == resumed else 0)
            if tp >= resumed and begin < ends[tp]:
                places[tp] = begin, ends[tp]
        return places

    async def _read(
        self, reader: Member, source: Source, tp: TopicPartition, begin: int, end: int, most: int, shown: list[Delivery]
    ) -> int:
        """The offset that comes next."""
        if most <= 0:
            return begin
        reader.assign({tp: begin})
        own, taken, following = tp.topic == topic_of(source), 0, begin
        async with asyncio.timeout(PATIENCE + FETCH_WAIT):
            while following < end and taken < most:
                records = (await reader.poll([tp], FETCH_WAIT, most - taken)).get(tp, [])
                for record in records:
                    following = record.offset + 1
                    if record.offset >= end or (not own and was_sent_to_queue(record.headers)):
                        continue
                    address = source.name if own else None
                    shown.append(delivery_of(record, Place(None, record.offset), address, count=0, again=False))
                    taken += 1
                if not records:
                    following = max(following, await reader.position(tp))
        return following

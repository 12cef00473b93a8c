"""A subscription without a group: it reads all partitions, from their ends on, and commits nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from unibus.driver import Clock, DriverEvent, TopicSubscription
from unibus_kafka.cluster import Cluster
from unibus_kafka.consumer import Member
from unibus_kafka.endpoint import Endpoint
from unibus_kafka.failures import translated
from unibus_kafka.partition import Partition
from unibus_kafka.subscription import JOIN, POLL, KafkaSubscription
from unibus_kafka.topics import Topics


class EphemeralSubscription(KafkaSubscription):
    grouped = False

    def __init__(
        self,
        source: TopicSubscription,
        endpoint: Endpoint,
        cluster: Cluster,
        topics: Topics,
        prefetch: int,
        notify: Callable[[DriverEvent], None],
        clock: Clock,
    ) -> None:
        super().__init__(source, endpoint, cluster, prefetch, notify, clock)
        self._patterns = source
        self._topics = topics
        self._follow_at = 0.0

    async def join(self) -> None:
        self.member = Member(self._endpoint, None)
        try:
            with translated(f"subscribing to {self.source}"):
                async with asyncio.timeout(JOIN):
                    await self.member.start_alone()
            await self._follow("end")
        except BaseException:
            await self._stop(self.member)
            raise
        self._stable.set()

    async def turn(self) -> None:
        if self._clock.monotonic() >= self._follow_at:
            await self._follow("first")
        if not self.partitions:
            await self._clock.sleep(POLL)
            return
        await super().turn()

    async def _follow(self, begin: str) -> None:
        """Take up what matches and is new. Left to the library, each new topic would make it read all of them again."""
        found = await self._topics.partitions_of(await self._topics.matching(self._patterns))
        new = [tp for tp in found if tp not in self.partitions]
        if new:
            starts = await self._cluster.offsets(new, "end" if begin == "end" else "first")
            for tp in new:
                self.partitions[tp] = Partition(tp, None, "", ordered=False, start=starts[tp])
            self.member.assign({tp: one.mark.next or 0 for tp, one in self.partitions.items()})
        self._follow_at = self._clock.monotonic() + self._endpoint.options.metadata_age

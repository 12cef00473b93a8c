"""Topics that we know, make and look for; consumer groups, and where they begin."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

from aiokafka.structs import TopicPartition

from unibus.driver import Address, Clock, Queue, Source, Topic, TopicSubscription
from unibus.errors import (
    AccessDenied,
    ConfigurationError,
    ConnectionLost,
    DestinationNotFound,
    DriverError,
    TopologyMismatch,
)
from unibus_kafka import delays
from unibus_kafka.cluster import BACKOFF, Cluster, Found, Wanted
from unibus_kafka.leadership import Candidate
from unibus_kafka.options import Options
from unibus_kafka.patterns import group_of, is_named, topic_of, topics_of

DEFAULT_LIMIT = 1_048_588
"""Bytes of a batch, where a topic's own `max.message.bytes` may not be asked for."""

PATIENCE = 25.0
"""Seconds for which a group may be about to begin."""


class Topics:
    def __init__(self, cluster: Cluster, options: Options, clock: Clock) -> None:
        self._cluster = cluster
        self._options = options
        self._clock = clock
        self.partitions: dict[str, int] = {}
        """Of the topics that we know to exist."""
        self.limits: dict[str, int] = {}
        """Bytes of a batch."""
        self._kinds: dict[str, str] = {}
        self._lock = asyncio.Lock()

    # --- looking --------------------------------------------------------------------------------------

    async def know(self, names: Collection[str]) -> dict[str, DriverError]:
        """Look for those that we do not know yet. Returns why, of those that we may not see."""
        denied: dict[str, DriverError] = {}
        if all(name in self.partitions for name in names):
            return denied
        async with self._lock:
            unknown = [name for name in dict.fromkeys(names) if name not in self.partitions]
            if unknown:
                await self._remember(await self._cluster.topics(unknown, denied))
        return denied

    async def publishable(self, names: Collection[str]) -> dict[str, DriverError]:
        """Make those that do not exist. Returns why, of those that cannot be published to."""
        failed = await self.know(names)
        new = [name for name in names if name not in self.partitions and name not in failed]
        if new:
            try:
                await self.make(dict.fromkeys(new, None))
            except (AccessDenied, TopologyMismatch) as error:
                if len(new) == 1:
                    return failed | {new[0]: error}
                for name in new:
                    failed |= await self.publishable([name])
        return failed

    async def _remember(self, found: Mapping[str, Found]) -> None:
        led = [name for name, one in found.items() if one.led]
        for name, text in (await self._cluster.configured("max.message.bytes", led)).items() if led else ():
            if text.isdigit():
                self.limits[name] = int(text)
        for name in led:
            self.limits.setdefault(name, DEFAULT_LIMIT)
            self.partitions[name] = found[name].partitions

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            self.partitions.pop(name, None)
            self.limits.pop(name, None)

    async def verify(self, addresses: Collection[Source | Topic]) -> None:
        names = {topic_of(address): address for address in addresses}
        found = await self._cluster.topics(names)
        for name, address in names.items():
            if name not in found:
                self.forget([name])
                raise missing(address)
        await self._remember({name: one for name, one in found.items() if name not in self.partitions})

    # --- making ---------------------------------------------------------------------------------------

    async def create(self, addresses: Collection[Source | Topic]) -> None:
        """Make or verify, in as few requests as there are kinds of them."""
        wanted: dict[str, int | None] = {}
        for address in addresses:
            self.claim(address)
            wanted[topic_of(address)] = address.partitions if isinstance(address, (Queue, Topic)) else None
            if isinstance(address, TopicSubscription):
                wanted |= {pattern: None for pattern in address.patterns if is_named(pattern)}
        await self.make(wanted)
        for address in addresses:
            if isinstance(address, Queue):
                await self._agree(address)
        # At once: to join a group takes three seconds, where the brokers are set as they are by default.
        groups = [address for address in addresses if isinstance(address, TopicSubscription)]
        for ended in await asyncio.gather(*map(self._begin, groups), return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended

    async def _agree(self, queue: Queue) -> None:
        """A topic does not know whether it is used in order. The first who declares it leaves a note: as an offset of a
        group that nobody is in, which is all that a cluster keeps for others."""
        group, first = f"unibus.ordering.{topic_of(queue)}", TopicPartition(topic_of(queue), 0)
        _, note = (await self._cluster.committed(group, [first])).get(first, (0, ""))
        if note in ("none", "key") and note != queue.ordering:
            raise TopologyMismatch(
                f"queue {queue.name!r} exists with ordering={note!r}, not ordering={queue.ordering!r}; say the same "
                "wherever it is used"
            )
        if note != queue.ordering:
            await self._cluster.commit(group, {first: (0, queue.ordering)})

    def claim(self, address: Address) -> None:
        """On Kafka both a queue and a topic are a topic: of one name they would be the same."""
        if isinstance(address, TopicSubscription):
            names = {pattern: "topic" for pattern in address.patterns if is_named(pattern)}
        else:
            names = {topic_of(address): "queue" if isinstance(address, Queue) else "topic"}
        for name, kind in names.items():
            if self._kinds.setdefault(name, kind) != kind:
                raise ConfigurationError(
                    f"{name!r} is used both as a queue and as a topic, which on Kafka are the same; rename one of them"
                )

    async def make(self, wanted: Mapping[str, int | None], configuration: Mapping[str, str] | None = None) -> list[str]:
        """Topics with so many partitions; None: our default, or whatever there is. Returns those that are new."""
        found = await self._cluster.topics(wanted)
        self._compare(wanted, found)
        options = self._options
        if configuration is None:
            configuration = {} if options.retention is None else {"retention.ms": str(int(options.retention * 1000))}
        new = {
            name: Wanted(partitions or options.partitions, options.replication or -1, configuration)
            for name, partitions in wanted.items()
            if name not in found
        }
        made = await self._cluster.create(new) if new else []
        unknown = [name for name in wanted if name not in self.partitions or name in new]
        if unknown:
            await self._await_leaders(unknown)
            self._compare(wanted, {name: one for name, one in found.items() if name in new})
        return made

    def _compare(self, wanted: Mapping[str, int | None], found: Mapping[str, Found]) -> None:
        for name, one in found.items():
            partitions, replicas = wanted[name], self._options.replication
            if partitions is not None and one.partitions != partitions:
                raise TopologyMismatch(
                    f"{name!r} exists with partitions={one.partitions}, not partitions={partitions}; say as many as "
                    "there are, or use another name: more would move keys to other partitions"
                )
            if replicas is not None and 0 < one.replicas < replicas:
                raise TopologyMismatch(
                    f"{name!r} exists with replication={one.replicas}, not replication={replicas}; reassign its "
                    "replicas, or ask for fewer"
                )

    async def _await_leaders(self, names: Collection[str]) -> None:
        """A node lists a topic only a little after it was made, and leads it a little after that."""
        deadline, client = self._clock.monotonic() + self._options.timeout, self._cluster.client
        while True:
            found = await self._cluster.topics(names)
            if all(name in found and found[name].led for name in names):
                break
            if self._clock.monotonic() > deadline:
                raise ConnectionLost(f"{', '.join(names)}: made, but not led by any broker yet; try again")
            await self._clock.sleep(0.02)
        await self._remember(found)
        while any(client.cluster.partitions_for_topic(name) is None for name in names):
            async with asyncio.timeout(self._options.timeout):
                await client.force_metadata_update()

    async def has_tiers(self, target: str) -> bool:
        first = delays.topics_of(target)[0]
        await self.know([first])
        return first in self.partitions

    async def tiers(self, target: str) -> bool:
        """Make the tiers of delay for a target, and where they end if it is gone. Whether they are new."""
        names = delays.topics_of(target)
        if all(name in self.partitions for name in names):
            return False
        async with self._lock:
            await self.make(
                dict.fromkeys(names, delays.PARTITIONS),
                {"retention.ms": str(delays.RETENTION * 1000), "message.timestamp.type": "CreateTime"},
            )
            with suppress(AccessDenied):  # else made by whoever has something to put aside
                await self.make({delays.UNDELIVERABLE: None})
        return True

    # --- groups ---------------------------------------------------------------------------------------

    async def _begin(self, group: TopicSubscription) -> None:
        """A new group begins at the end of what is there; topics that come later it reads from their start.

        Of processes that declare it at the same time one alone says where the end is: by a later one's, what was
        published in between would be passed over.
        """
        name, deadline = group_of(group), self._clock.monotonic() + PATIENCE
        if await self._cluster.committed(name):
            return
        async with self._cluster.beside() as cluster:
            candidate = Candidate(cluster, name)
            try:
                while not await self._cluster.committed(name):
                    if self._clock.monotonic() > deadline:
                        raise ConnectionLost(f"{group}: others are about to begin it, and do not; try again")
                    if not await candidate.leads():
                        await self._clock.sleep(BACKOFF)
                    elif not await self._cluster.committed(name):
                        await candidate.commit(await self._ends(group))
            finally:
                await candidate.leave()

    async def _ends(self, group: TopicSubscription) -> dict[TopicPartition, int]:
        """Of all topics that it reads; of its own alone, if it is to read the others from their start."""
        own = topic_of(group)
        wanted = {own} if group.start == "earliest" else {own, *await self.matching(group)}
        return await self._cluster.offsets(await self.partitions_of(wanted), "end")

    async def matching(self, source: TopicSubscription) -> list[str]:
        regex = re.compile(topics_of(source))
        return [topic for topic in await self._cluster.topics() if regex.match(topic)]

    async def partitions_of(self, names: Collection[str]) -> list[TopicPartition]:
        found = await self._cluster.topics(names) if names else {}
        client = self._cluster.client
        if any(client.cluster.partitions_for_topic(name) is None for name in found):
            async with asyncio.timeout(self._options.timeout):
                await client.force_metadata_update()
        return [TopicPartition(name, number) for name, one in found.items() for number in range(one.partitions)]


def missing(address: Address) -> DestinationNotFound:
    return DestinationNotFound(
        f"{address} does not exist; start its consumer once, which creates it, or check the name"
    )

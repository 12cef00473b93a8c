"""Who moves delays, of which targets, and for how long; and what becomes of those whose target is gone."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence

from aiokafka.structs import TopicPartition

from unibus.driver import Clock, Gap, Queue
from unibus.errors import DriverError
from unibus_kafka import delays
from unibus_kafka.cluster import Cluster
from unibus_kafka.endpoint import Endpoint
from unibus_kafka.failures import FOREIGN
from unibus_kafka.forwarder import Forwarder
from unibus_kafka.partitioner import hashed
from unibus_kafka.records import Record
from unibus_kafka.subscription import KafkaSubscription
from unibus_kafka.topics import Topics

logger = logging.getLogger("unibus.kafka")

MANY = 1_000_000
"""Deliveries that a forwarder may hold: what bounds it is how much of each partition of its tiers it may."""
LOOK_EVERY = 10.0
"""Seconds between two looks for delays whose target is gone, and at where they are put aside."""

Confirm = Callable[[Sequence[tuple[TopicPartition, Record]]], Awaitable[None]]
"""Send records, all confirmed, or BatchError."""


class Forwarding:
    def __init__(self, endpoint: Endpoint, cluster: Cluster, topics: Topics, confirm: Confirm, clock: Clock) -> None:
        self._endpoint = endpoint
        self._cluster = cluster
        self._topics = topics
        self._confirm = confirm
        self._clock = clock
        self._turn = itertools.count()
        self._watching: asyncio.Task[None] | None = None
        self._subscriptions: list[KafkaSubscription] = []

    # --- of a target that is consumed here ------------------------------------------------------------

    def beside(self, subscription: KafkaSubscription) -> None:
        """For as long as the subscription lives."""
        if subscription.forwards or subscription.inbox.ended:
            return
        subscription.forwards = True
        task = subscription.run(self._forwarder(subscription.own_topic).run(), "forward")
        task.add_done_callback(lambda ended: self._ended_beside(subscription, ended))
        self._subscriptions = [one for one in self._subscriptions if not one.inbox.ended and one is not subscription]
        self._subscriptions.append(subscription)
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch(), name="unibus kafka undeliverable")

    def _ended_beside(self, subscription: KafkaSubscription, ended: asyncio.Task[None]) -> None:
        """Whatever it ended by, the keeper begins another, for as long as the subscription lives."""
        subscription.forwards = False
        if not ended.cancelled() and (error := ended.exception()) is not None:
            logger.debug("%s: delays are not moved just now: %r", subscription.source, error)

    async def end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    # --- of all targets -------------------------------------------------------------------------------

    async def run(self) -> None:
        """For every target for which something waits, until cancelled."""
        await self._run(lambda target, existing: True, self._endpoint.options.metadata_age)

    async def _watch(self) -> None:
        """Nobody consumes a target that is gone: any consumer puts aside what waits for it, and tells of it."""
        counting = asyncio.get_running_loop().create_task(self._count(), name="unibus kafka count undeliverable")
        try:
            await self._run(lambda target, existing: target not in existing, LOOK_EVERY)
        finally:
            counting.cancel()
            await asyncio.wait([counting])

    async def _run(self, ours: Callable[[str, Collection[str]], bool], every: float) -> None:
        seen: dict[TopicPartition, int] = {}
        running: dict[str, asyncio.Task[None]] = {}
        loop = asyncio.get_running_loop()
        try:
            while True:
                for target in [target for target, task in running.items() if task.done()]:
                    del running[target]  # it could not begin; what waits there is looked for again
                    for topic in delays.topics_of(target):
                        seen.update({tp: 0 for tp in seen if tp.topic == topic})
                for target in await self._waiting(ours, seen):
                    if target not in running:
                        running[target] = loop.create_task(
                            self._forwarder(target).run(), name=f"unibus kafka forward {target}"
                        )
                await self._clock.sleep(every)
        finally:
            for task in running.values():
                task.cancel()
            if running:
                await asyncio.wait(running.values())

    async def _waiting(self, ours: Callable[[str, Collection[str]], bool], seen: dict[TopicPartition, int]) -> set[str]:
        """Those of our targets for which something waits in a tier. seen: the ends of the tiers at the last look, kept
        up to date: where nothing came, nobody has to be asked again."""
        try:
            found = await self._cluster.topics()
            tiers = [topic for topic in found if (tier := delays.parsed(topic)) and ours(tier[1], found)]
            ends = await self._cluster.offsets(await self._topics.partitions_of(tiers), "end") if tiers else {}
            grown: dict[str, list[TopicPartition]] = {}
            for tp, end in ends.items():
                if end > seen.get(tp, 0) and (tier := delays.parsed(tp.topic)) is not None:
                    grown.setdefault(tier[1], []).append(tp)
            waiting = set()
            for target, tps in grown.items():
                done = await self._cluster.committed(delays.group_of(target), tps)
                if any(done.get(tp, (0, ""))[0] < ends[tp] for tp in tps):
                    waiting.add(target)
        except (*FOREIGN, DriverError) as error:
            logger.debug("cannot look for delays: %r", error)
            return set()
        seen.update(ends)
        return waiting

    # --- what nobody will fetch -----------------------------------------------------------------------

    async def _count(self) -> None:
        """One consumer says for all what came since the last look: the core logs it, and has it in its figures."""
        known: int | None = None
        while True:
            try:
                tps = await self._topics.partitions_of([delays.UNDELIVERABLE])
                now = sum((await self._cluster.offsets(tps, "end")).values()) if tps else 0
            except (*FOREIGN, DriverError) as error:
                logger.debug("cannot look after what is undeliverable: %r", error)
            else:
                if known is not None and now > known:
                    for subscription in [one for one in self._subscriptions if not one.inbox.ended][:1]:
                        subscription.notify(Gap(now - known))
                known = now
            await self._clock.sleep(LOOK_EVERY)

    # --- moving ---------------------------------------------------------------------------------------

    def _forwarder(self, target: str) -> Forwarder:
        source = Queue("delays", physical=target)
        tiers = KafkaSubscription(
            source, self._endpoint, self._cluster, MANY, lambda event: None, self._clock, tiers_of=target
        )
        return Forwarder(target, tiers, self._move, self._clock)

    async def _move(self, moves: Sequence[tuple[str, Record]]) -> None:
        """What has nowhere to go is put aside, and not lost."""
        for error in (await self._topics.know({topic for topic, _ in moves})).values():
            raise error
        gone = {topic for topic, _ in moves if topic not in self._topics.partitions}
        if gone:
            await self._topics.make({delays.UNDELIVERABLE: None})
        counts, turn = self._topics.partitions, next(self._turn)
        records = []
        for place, (wanted, record) in enumerate(moves):
            topic = delays.UNDELIVERABLE if wanted in gone else wanted
            number = (turn + place if record.key is None else hashed(record.key)) % counts[topic]
            records.append((TopicPartition(topic, number), record))
        await self._confirm(records)

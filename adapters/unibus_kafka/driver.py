"""The driver of `kafka://`: a queue is a topic with one consumer group."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from aiokafka.structs import TopicPartition

from unibus.driver import (
    Address,
    Capabilities,
    Clock,
    Confirmed,
    Delivery,
    Depth,
    DriverEvent,
    Outbound,
    Queue,
    Source,
    Topic,
    TopicSubscription,
    Topology,
    Url,
)
from unibus.errors import (
    AccessDenied,
    BatchError,
    ConnectionLost,
    DriverError,
    NotOpen,
    TopologyMismatch,
    UnsupportedCapability,
)
from unibus_kafka import delays
from unibus_kafka.browsing import Browsing
from unibus_kafka.cluster import Cluster
from unibus_kafka.endpoint import Endpoint
from unibus_kafka.ephemeral import EphemeralSubscription
from unibus_kafka.features import capabilities
from unibus_kafka.forwarding import Forwarding
from unibus_kafka.keeper import Keeper
from unibus_kafka.partitioner import partition_of
from unibus_kafka.patterns import group_of, is_ephemeral, topic_of
from unibus_kafka.producer import Producer
from unibus_kafka.records import Record, record_of, with_due
from unibus_kafka.subscription import KafkaSubscription
from unibus_kafka.topics import Topics, missing

logger = logging.getLogger("unibus.kafka")


class KafkaDriver:
    """Confirmed means: written by all replicas that are in sync (`acks=all`). See `Options` for the URL."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self._endpoint = Endpoint(url)
        self._clock = clock
        self._capabilities = capabilities("replicas")
        self._away: Exception | None = NotOpen("the Kafka driver is not open; call open() first")
        self._cluster = Cluster(self._endpoint, clock)
        self._topics: Topics
        self._producer: Producer
        self._forwarding: Forwarding
        self._subscriptions: list[KafkaSubscription] = []
        self._turn = itertools.count()

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def open(self) -> None:
        if self._away is None:
            return
        options = self._endpoint.options
        try:
            await self._cluster.open()
            self._capabilities = capabilities(await self._confirmed())
        except BaseException:
            await self._cluster.close()
            raise
        self._topics = Topics(self._cluster, options, self._clock)
        self._producer = Producer(self._cluster, self._clock, options.timeout, options.compression)
        self._forwarding = Forwarding(self._endpoint, self._cluster, self._topics, self._confirm, self._clock)
        self._away = None

    async def declare(self, topology: Topology) -> None:
        self._live()
        if topology.verify:
            await self._topics.verify(topology.verify)
        if topology.create:
            await self._topics.create(topology.create)

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        self._live()
        self._topics.claim(address)
        topics = self._destinations(address, messages)
        if unusable := await self._unusable(address, set(topics)):
            await self._send_others(address, messages, {i: unusable[t] for i, t in enumerate(topics) if t in unusable})
        records = self._records(address, messages, topics)
        later = [index for index, message in enumerate(messages) if message.delay > 0]
        if later:
            try:
                await self._delay(address, messages, records, later)
            except (AccessDenied, TopologyMismatch) as error:
                await self._send_others(address, messages, dict.fromkeys(later, error))
        await self._confirm(records)

    async def subscribe(
        self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]
    ) -> KafkaSubscription:
        self._live()
        if isinstance(source, TopicSubscription) and is_ephemeral(source):
            subscription: KafkaSubscription = EphemeralSubscription(
                source, self._endpoint, self._cluster, self._topics, prefetch, notify, self._clock
            )
        else:
            await self._topics.verify([source])
            await self._cluster.check_readable(topic_of(source))
            subscription = KafkaSubscription(source, self._endpoint, self._cluster, prefetch, notify, self._clock)
        await subscription.start()
        try:
            await self._keep(subscription)
        except BaseException:
            await subscription.close()
            raise
        self._subscriptions = [live for live in self._subscriptions if not live.inbox.ended]
        self._subscriptions.append(subscription)
        return subscription

    async def depth(self, source: Source) -> Depth:
        """The group's lag, less what this process holds; what others hold counts as ready."""
        self._live()
        await self._topics.verify([source])
        topics = await self._topics.matching(source) if isinstance(source, TopicSubscription) else [topic_of(source)]
        tps = await self._topics.partitions_of(topics)
        committed = await self._cluster.committed(group_of(source), tps)
        ends = await self._cluster.offsets(tps, "end")
        begins = await self._cluster.offsets([tp for tp in tps if tp not in committed], "first")
        lows = {tp: committed[tp][0] if tp in committed else begins[tp] for tp in tps}
        ours = 0
        for one in self._subscriptions:
            if one.source == source and not one.inbox.ended:
                ours += one.unsettled
                lows |= {tp: low for tp, part in one.partitions.items() if tp in lows and (low := part.mark.low)}
        return Depth(ready=max(sum(ends[tp] - lows[tp] for tp in tps) - ours, 0))

    async def browse(self, source: Source, after: str | None, limit: int) -> tuple[Sequence[Delivery], str | None]:
        """Implements Browser: from where the group is to the end, by a reader that belongs to no group."""
        self._live()
        await self._topics.verify([source])
        return await Browsing(self._endpoint, self._cluster, self._topics).page(source, after, limit)

    async def forward(self) -> None:
        """Implements Forwarding: for every target for which something waits."""
        self._live()
        await self._forwarding.run()

    async def close(self) -> None:
        if self._away is None:
            self._away = NotOpen("the Kafka driver is closed")
            for subscription in list(self._subscriptions):
                await subscription.close()
            await self._stop_sending()

    async def vanish(self) -> None:
        """For tests: what a killed process looks like to the cluster. Later calls raise ConnectionLost."""
        self._away = ConnectionLost("the process behind this driver was killed by its test")
        for subscription in list(self._subscriptions):
            await subscription.cut_off(ConnectionLost(*self._away.args))
        await self._stop_sending()

    async def put_out(self) -> None:
        """For tests: the groups forget us, as they forget a member that was silent for too long."""
        for subscription in self._subscriptions:
            if not subscription.inbox.ended and subscription.grouped:
                await self._cluster.put_out(group_of(subscription.source), subscription.member.identity)

    # --- delays ---------------------------------------------------------------------------------------

    async def _delay(
        self,
        address: Address,
        messages: Sequence[Outbound],
        records: list[tuple[TopicPartition, Record]],
        later: Sequence[int],
    ) -> None:
        """Send those to the tiers instead."""
        if isinstance(address, Topic):
            raise UnsupportedCapability(f"publishing to {address} with a delay: only what is sent to a queue can wait")
        longest = max(messages[index].delay for index in later)
        if longest > delays.LONGEST:
            raise UnsupportedCapability(f"a delay of {longest:g} s: {delays.LONGEST:g} s is the most")
        target = topic_of(address)
        if await self._topics.tiers(target):
            for subscription in self._subscriptions:
                if subscription.own_topic == target:
                    self._forwarding.beside(subscription)
        now, turn = self._clock.now(), next(self._turn)
        for index in later:
            record, delay = records[index][1], messages[index].delay
            topic = delays.topic_of(delays.tier_for(delay), target)
            # A key means nothing on the way; without one a partition would have what all others have not.
            place = TopicPartition(topic, (turn + index) % self._topics.partitions[topic])
            records[index] = place, record._replace(headers=with_due(record.headers, now + delay))

    async def _keep(self, subscription: KafkaSubscription) -> None:
        options = self._endpoint.options

        async def restore() -> None:
            if not is_ephemeral(subscription.source):
                self._topics.forget([subscription.own_topic])
                await self._topics.create([subscription.source])

        async def tend() -> None:
            target = subscription.own_topic
            if subscription.grouped and not subscription.forwards and await self._topics.has_tiers(target):
                self._forwarding.beside(subscription)

        keeper = Keeper(
            subscription, self._cluster, restore, tend, self._clock, every=options.metadata_age, session=options.session
        )
        subscription.run(keeper.run(), "keep")
        await tend()

    # --- inside ---------------------------------------------------------------------------------------

    def _live(self) -> None:
        if self._away is not None:
            raise type(self._away)(*self._away.args)

    async def _stop_sending(self) -> None:
        await self._forwarding.end()
        self._producer.close()
        await self._cluster.close()
        await self._producer.ended()

    async def _confirmed(self) -> Confirmed:
        """By the replicas of the topics that we make; those that others have made may have more or fewer."""
        replicas = self._endpoint.options.replication
        if replicas is None:
            text = await self._cluster.configured_default("default.replication.factor")
            replicas = int(text) if text is not None and text.isdigit() else 1
        return "replicas" if replicas > 1 else "disk"

    def _destinations(self, address: Address, messages: Sequence[Outbound]) -> list[str]:
        """The topic of each message."""
        if isinstance(address, TopicSubscription) and address.group is None:
            raise UnsupportedCapability(f"{address} has no group: nothing can be sent to it alone")
        if not isinstance(address, Topic):
            return [topic_of(address)] * len(messages)
        return [address.physical or message.topic or address.name for message in messages]

    async def _unusable(self, address: Address, topics: set[str]) -> dict[str, DriverError]:
        """Why, of those that cannot be sent to. What is published to is made, if it does not exist."""
        if isinstance(address, Topic):
            return await self._topics.publishable(topics)
        denied = await self._topics.know(topics)
        return {name: missing(address) for name in topics if name not in self._topics.partitions} | denied

    async def _send_others(
        self, address: Address, messages: Sequence[Outbound], failed: Mapping[int, Exception]
    ) -> NoReturn:
        """Raises what failed already, once the others are sent."""
        errors, others = dict(failed), [index for index in range(len(messages)) if index not in failed]
        try:
            if others:
                await self.send(address, [messages[index] for index in others])
        except BatchError as error:
            errors |= {others[index]: reason for index, reason in error.errors.items()}
        raise BatchError(errors, len(messages))

    def _records(
        self, address: Address, messages: Sequence[Outbound], topics: Sequence[str]
    ) -> list[tuple[TopicPartition, Record]]:
        """Without a key a whole call goes to one partition, the next to the next: batches stay large."""
        counts, turn = self._topics.partitions, next(self._turn)
        tell, to_queue = not isinstance(address, Topic), isinstance(address, Queue)
        places: dict[tuple[str, int], TopicPartition] = {}
        records = []
        for message, topic in zip(messages, topics, strict=True):
            record = record_of(message, message.topic if tell else None, to_queue=to_queue)
            many = counts[topic]
            number = turn % many if record.key is None else partition_of(record.key, many)
            tp = places.get((topic, number))
            if tp is None:
                tp = places[topic, number] = TopicPartition(topic, number)
            records.append((tp, record))
        return records

    async def _confirm(self, records: Sequence[tuple[TopicPartition, Record]]) -> None:
        try:
            await self._producer.send(records, self._topics.limits)
        except BatchError as failed:
            # For the next call: what was deleted is looked for, and a limit that was changed is asked for.
            self._topics.forget({records[index][0].topic for index in failed.errors})
            raise

"""The driver of `kafka://`: a queue is a topic with one consumer group."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka import errors as foreign
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from unibus.driver import (
    Address,
    Capabilities,
    Clock,
    Depth,
    DriverEvent,
    Outbound,
    Queue,
    Source,
    Subscription,
    Topic,
    TopicSubscription,
    Topology,
    Url,
)
from unibus.errors import (
    BatchError,
    ConfigurationError,
    ConnectionLost,
    DestinationNotFound,
    NotOpen,
    OutcomeUnknown,
    TopologyMismatch,
)
from unibus_kafka.failures import FOREIGN, of_send, translated
from unibus_kafka.options import Options, capabilities
from unibus_kafka.records import record_of
from unibus_kafka.subscription import KafkaSubscription

_LONGEST_JOIN = 60.0
_LONGEST_BOOTSTRAP = 5.0


class KafkaDriver:
    """Confirmed means: written by all replicas that are in sync (`acks=all`)."""

    def __init__(self, url: Url, clock: Clock) -> None:
        if url.path.strip("/") or url.username or url.password:
            raise ConfigurationError(f"{url}: use kafka://host:port?option=value")
        self.options = url.parse_options(Options)
        self._servers = f"{url.host or 'localhost'}:{url.port or 9092}"
        self._clock = clock
        self._away: Exception | None = NotOpen("the Kafka driver is not open; call open() first")
        self._producer: Any = None
        self._admin: Any = None
        self._known: set[str] = set()
        self._made: set[str] = set()  # a node lists a topic only a little after it was made
        self._subscriptions: list[KafkaSubscription] = []

    @property
    def capabilities(self) -> Capabilities:
        return capabilities()

    async def open(self) -> None:
        self._admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._servers, acks="all", enable_idempotence=True, max_request_size=2_000_000
        )
        try:
            with translated(f"connecting to {self._servers}"):
                # Something else that listens there would keep the client waiting for most of a minute.
                await asyncio.wait_for(self._producer.start(), _LONGEST_BOOTSTRAP)
                await asyncio.wait_for(self._admin.start(), _LONGEST_BOOTSTRAP)
        except BaseException:
            await self._stop_clients()
            raise
        self._away = None

    async def declare(self, topology: Topology) -> None:
        self._check()
        for address in topology.verify:
            await self._verify(address)
        for address in topology.create:
            partitions = address.partitions if isinstance(address, (Queue, Topic)) else None
            await self._create(_topic_of(address), partitions)
            if isinstance(address, TopicSubscription):
                await self._create_group(address)

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        self._check()
        topics = [_topic_of(address)] * len(messages)
        if isinstance(address, Topic):
            topics = [address.physical or message.topic or address.name for message in messages]
            for topic in set(topics):
                if not await self._exists(topic):
                    await self._create(topic, None)
        elif not await self._exists(topics[0]):
            raise BatchError(dict.fromkeys(range(len(messages)), _missing(address)), len(messages))
        errors: dict[int, Exception] = {}
        pending: dict[asyncio.Future[Any], int] = {}
        for place, (message, topic) in enumerate(zip(messages, topics, strict=True)):
            note = None if isinstance(address, Topic) else message.topic
            try:
                pending[await self._producer.send(topic, **record_of(message, note))] = place
            except FOREIGN as error:
                errors[place] = of_send(error)
        errors |= await self._outcomes(pending)
        if errors:
            raise BatchError(errors, len(messages))

    async def subscribe(self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]) -> Subscription:
        self._check()
        lasting = not isinstance(source, TopicSubscription) or source.group is not None
        if lasting:
            await self._verify(source)
        consumer = self._consumer(source)
        subscription = KafkaSubscription(
            source, consumer, _topic_of(source), self.options, prefetch, notify, self._clock
        )
        if isinstance(source, TopicSubscription):
            for pattern in source.patterns:
                if "*" not in pattern and "#" not in pattern:
                    await self._create(pattern, None)
        try:
            with translated(f"subscribing to {source}"):
                await self._go_live(source, subscription, consumer)
        except BaseException:
            await consumer.stop()
            raise
        self._subscriptions = [live for live in self._subscriptions if not live.inbox.ended]
        self._subscriptions.append(subscription)
        subscription.start()
        return subscription

    async def _go_live(self, source: Source, subscription: KafkaSubscription, consumer: Any) -> None:
        if isinstance(source, Queue):
            consumer.subscribe([_topic_of(source)], listener=subscription.listener)
        elif source.group is not None:
            consumer.subscribe(pattern=topics_of(source), listener=subscription.listener)
        else:
            await consumer.start()
            await subscription.begin_at_the_end(lambda: self._matching(source))
            return
        await consumer.start()
        await asyncio.wait_for(subscription.live.wait(), _LONGEST_JOIN)

    async def _matching(self, source: TopicSubscription) -> set[TopicPartition]:
        regex = re.compile(topics_of(source))
        return set(await self._partitions([topic for topic in await self._admin.list_topics() if regex.match(topic)]))

    async def depth(self, source: Source) -> Depth:
        """What is not committed yet, less what this process holds; what others hold counts as ready."""
        self._check()
        await self._verify(source)
        committed = await self._admin.list_consumer_group_offsets(_group_of(source))
        async with _helper(self._servers) as consumer:
            tps = await self._partitions([_topic_of(source)])
            first, last = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
        lag = 0
        for tp in tps:
            done = committed[tp].offset if tp in committed else -1
            lag += last[tp] - (done if done >= 0 else first[tp])
        ours = sum(one.unsettled for one in self._subscriptions if one.source == source and not one.inbox.ended)
        return Depth(ready=max(lag - ours, 0))

    async def close(self) -> None:
        if self._away is None:
            self._away = NotOpen("the Kafka driver is closed")
            for subscription in list(self._subscriptions):
                await subscription.close()
            await self._stop_clients()

    async def vanish(self) -> None:
        """For tests: what a killed process looks like to the cluster. Later calls raise ConnectionLost."""
        self._away = ConnectionLost("the process behind this driver was killed by its test")
        for subscription in list(self._subscriptions):
            await subscription.cut_off(ConnectionLost(*self._away.args))
        await self._stop_clients()

    # --- topology -------------------------------------------------------------------------------------

    async def _exists(self, topic: str) -> bool:
        if topic not in self._known:
            with translated("listing topics"):
                self._known = set(await self._admin.list_topics()) | self._made
        return topic in self._known

    async def _verify(self, address: Source | Topic) -> None:
        if not await self._exists(_topic_of(address)):
            raise _missing(address)

    async def _create(self, topic: str, partitions: int | None) -> None:
        wanted = NewTopic(topic, partitions or self.options.partitions, 1)
        wanted.replication_factor = self.options.replication  # -1, which the constructor refuses, is the default
        if not await self._exists(topic):
            with translated(f"creating {topic!r}"):
                try:
                    answer = await self._admin.create_topics([wanted])
                except foreign.TopicAlreadyExistsError:
                    return
            for _, code, *_ in answer.topic_errors:
                error = foreign.for_code(code)
                if code and error is not foreign.TopicAlreadyExistsError:
                    with translated(f"creating {topic!r}"):
                        raise error
            self._made.add(topic)
            self._known.add(topic)
            await self._producer.client.fetch_all_metadata()
        elif partitions is not None:
            with translated(f"looking at {topic!r}"):
                (found,) = await self._admin.describe_topics([topic])
            if len(found["partitions"]) != partitions:
                raise TopologyMismatch(
                    f"{topic!r} exists with partitions={len(found['partitions'])}, not partitions={partitions}"
                )

    async def _create_group(self, group: TopicSubscription) -> None:
        """A new group begins at the end of what is there; topics that come later it reads from their start."""
        name = _group_of(group)
        with translated(f"creating {group}"):
            if await self._admin.list_consumer_group_offsets(name):
                return
            for pattern in group.patterns:
                if "*" not in pattern and "#" not in pattern:
                    await self._create(pattern, None)
            async with _helper(self._servers, name) as consumer:
                own = _topic_of(group)
                regex = re.compile(topics_of(group))
                matching = [topic for topic in await self._admin.list_topics() if regex.match(topic)]
                wanted = [own] if group.start == "earliest" else [own, *matching]
                tps = await self._partitions(sorted(set(wanted)))
                consumer.assign(tps)
                await consumer.commit(await consumer.end_offsets(tps))

    async def _partitions(self, topics: Sequence[str]) -> list[TopicPartition]:
        described = await self._admin.describe_topics(list(topics)) if topics else []
        return [TopicPartition(one["topic"], part["partition"]) for one in described for part in one["partitions"]]

    def _consumer(self, source: Source) -> Any:
        ephemeral = isinstance(source, TopicSubscription) and source.group is None
        return AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            group_id=None if ephemeral else _group_of(source),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(self.options.session * 1000),
            heartbeat_interval_ms=int(self.options.session * 1000 / 4),
            rebalance_timeout_ms=int((self.options.revoke + 20) * 1000),
            metadata_max_age_ms=int(self.options.metadata_age * 1000),
            fetch_max_wait_ms=100,
        )

    # --- sending --------------------------------------------------------------------------------------

    async def _outcomes(self, pending: dict[asyncio.Future[Any], int]) -> dict[int, Exception]:
        if not pending:
            return {}
        # The client's idempotent sends never expire: the deadline is ours, and what is behind it is unknown.
        done, late = await asyncio.wait(pending, timeout=self.options.timeout)
        errors: dict[int, Exception] = {
            pending[future]: OutcomeUnknown(f"no confirmation within {self.options.timeout:g} s") for future in late
        }
        for future in done:
            error = future.exception()
            if error is not None:
                errors[pending[future]] = of_send(error)
        return errors

    async def _stop_clients(self) -> None:
        await self._producer.stop()
        await self._admin.close()

    def _check(self) -> None:
        if self._away is not None:
            raise type(self._away)(*self._away.args)


def _topic_of(address: Address) -> str:
    """A group has a topic of its own, for what is sent to it alone."""
    return getattr(address, "physical", None) or address.name


def _group_of(source: Source) -> str:
    return source.name if isinstance(source, TopicSubscription) else f"unibus.queue.{_topic_of(source)}"


def topics_of(subscription: TopicSubscription) -> str:
    """The patterns as one expression over topics, with the group's own topic."""
    alternatives = [] if subscription.group is None else [re.escape(subscription.name)]
    alternatives += [rf"(?!unibus\.)(?!.*\.dlq$){_expression(one.split('.'))}" for one in subscription.patterns]
    return f"^(?:{'|'.join(alternatives)})$"


def _expression(words: list[str]) -> str:
    """Of one pattern. Each word but the first is written with its dot."""
    if words == ["#"]:
        return r"[^.]+(?:\.[^.]+)*"
    if words[0] == "#":
        return r"(?:[^.]+\.)*" + _expression(words[1:])
    spelled = [r"(?:\.[^.]+)*" if word == "#" else r"\.[^.]+" if word == "*" else r"\." + word for word in words]
    return "".join(spelled).removeprefix(r"\.")


def _helper(servers: str, group: str | None = None) -> Any:
    return AIOKafkaConsumer(bootstrap_servers=servers, group_id=group, enable_auto_commit=False)


def _missing(address: Address) -> DestinationNotFound:
    return DestinationNotFound(f"{address} does not exist; start its consumer once, which creates it")

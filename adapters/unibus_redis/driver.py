"""The driver of `redis://`: queues and groups are streams."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

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
from unibus.errors import BatchError, ConnectionLost, DestinationNotFound, NotOpen, TopologyMismatch
from unibus_redis import scripts
from unibus_redis.calls import Argument, Calls
from unibus_redis.entries import fields_of
from unibus_redis.failures import FOREIGN, of_send
from unibus_redis.options import Options, capabilities
from unibus_redis.registry import GROUPS, QUEUES, VERSION, Registry, described
from unibus_redis.subscription import StreamSubscription

_EPHEMERAL_LIFE = 60.0
"""Seconds for which the stream of an ephemeral subscription outlives its subscriber, at least."""


class RedisDriver:
    """Streams, each with one consumer group. Confirmed means: in the memory of the server, and in
    its append-only file as its configuration says."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self.options = url.parse_options(Options)
        self._url = url
        self._clock = clock
        self._away: Exception | None = NotOpen("the Redis driver is not open; call open() first")
        self._calls = Calls(url, self.options.timeout)
        self._registry = Registry(self._calls)
        self._subscriptions: list[StreamSubscription] = []

    @property
    def capabilities(self) -> Capabilities:
        return capabilities(self.options)

    async def open(self) -> None:
        await self._calls.command("PING")
        self._away = None

    async def declare(self, topology: Topology) -> None:
        self._check()
        for address in topology.verify:
            await self._verify(address)
        for address in topology.create:
            await self._create(address)

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        self._check()
        connection = None
        try:
            connection = await self._calls.connection(self._clock)
            if isinstance(address, Topic):
                await self._publish(address, messages, connection)
                return
            stored = await self._store(address, messages, connection)
        except FOREIGN as error:
            failed = of_send(error, left=connection is not None)
            raise BatchError(dict.fromkeys(range(len(messages)), failed), len(messages)) from error
        if not stored:
            raise BatchError(dict.fromkeys(range(len(messages)), _missing(address)), len(messages))

    async def subscribe(self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]) -> Subscription:
        self._check()
        stream = self._stream(source)
        life = 0.0
        if isinstance(source, TopicSubscription) and source.group is None:
            life = max(2 * self.options.lease, _EPHEMERAL_LIFE)
            stream = f"unibus.ephemeral.{uuid.uuid4().hex}"
            await self._register(source, stream, life)
        else:
            await self._verify(source)
        return self._started(
            StreamSubscription(
                source, stream, life, self._calls, self._own_calls(), self.options, prefetch, notify, self._clock
            )
        )

    async def depth(self, source: Source) -> Depth:
        self._check()
        stream = self._stream(source)
        in_flight = (await self._calls.command("XPENDING", stream, scripts.GROUP))[0]
        stored = await self._calls.command("XLEN", stream)
        return Depth(ready=max(stored - in_flight, 0), in_flight=in_flight)

    async def close(self) -> None:
        if self._away is None:
            self._away = NotOpen("the Redis driver is closed")
            for subscription in list(self._subscriptions):
                await subscription.close()
        await self._calls.close()

    async def vanish(self) -> None:
        """For tests: what a killed process looks like to the server. Later calls raise ConnectionLost."""
        self._away = ConnectionLost("the process behind this driver was killed by its test")
        for subscription in list(self._subscriptions):
            await subscription.cut_off(ConnectionLost(*self._away.args))
        await self._calls.close()

    # --- inside ---------------------------------------------------------------------------------------

    def _stream(self, source: Source) -> str:
        return source.physical or source.name if isinstance(source, Queue) else source.name

    def _check(self) -> None:
        if self._away is not None:
            raise type(self._away)(*self._away.args)

    def _own_calls(self) -> Calls:
        """For one subscription: a read that waits must not hold up anything else."""
        return Calls(self._url, self.options.timeout)

    def _started(self, subscription: StreamSubscription) -> StreamSubscription:
        self._subscriptions = [live for live in self._subscriptions if not live.inbox.ended]
        self._subscriptions.append(subscription)
        subscription.start()
        return subscription

    async def _create(self, address: Source | Topic) -> None:
        if isinstance(address, Topic):
            return  # a topic exists in the patterns of its groups alone
        if isinstance(address, TopicSubscription):
            await self._register(address, self._stream(address), 0.0)
            return
        was = await self._calls.script(scripts.DECLARE_QUEUE, [self._stream(address), QUEUES], [address.ordering])
        if was:
            raise TopologyMismatch(
                f"{address.name!r} exists with ordering={was.decode()!r}, not ordering={address.ordering!r}; "
                "use what exists, or another name"
            )

    async def _register(self, subscription: TopicSubscription, stream: str, life: float) -> None:
        text = described(subscription)
        keys = [stream, VERSION, GROUPS]
        was = await self._calls.script(scripts.DECLARE_GROUP, keys, [text, int(life * 1000)])
        if was:
            raise TopologyMismatch(
                f"{subscription} exists with {was.decode()}, not with {text}; use what exists, or another name"
            )

    async def _verify(self, address: Source | Topic) -> None:
        if isinstance(address, Topic):
            return
        if not await self._calls.command("EXISTS", self._stream(address)):
            raise _missing(address)
        if isinstance(address, Queue):
            was = await self._calls.command("HGET", QUEUES, self._stream(address))
            if was is not None and was.decode() != address.ordering:
                raise TopologyMismatch(
                    f"{address.name!r} exists with ordering={was.decode()!r}, not ordering={address.ordering!r}"
                )

    async def _publish(self, topic: Topic, messages: Sequence[Outbound], connection: object) -> None:
        for message in messages:
            message.topic = message.topic or topic.name
        await self._registry.publish(messages, connection)

    async def _store(self, address: Source, messages: Sequence[Outbound], connection: object) -> bool:
        arguments: list[Argument] = []
        for message in messages:
            fields = fields_of(message, message.topic)
            arguments += [len(fields), *fields]
        return bool(await self._calls.write(scripts.SEND, [self._stream(address)], arguments, connection))


def _missing(address: Address) -> DestinationNotFound:
    return DestinationNotFound(f"{address} does not exist; start its consumer once, which creates it")

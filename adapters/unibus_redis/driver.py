"""The driver of streams: queues and groups are streams, each with one consumer group."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from typing import Protocol

from unibus.driver import (
    Address,
    Capabilities,
    Clock,
    Confirmed,
    Delivery,
    Depth,
    DriverEvent,
    Inbox,
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
    DriverError,
    NotOpen,
    UnsupportedCapability,
)  # fmt: skip
from unibus_redis import durability, keys, topology
from unibus_redis.calls import Calls
from unibus_redis.entries import Entry, delivery_of
from unibus_redis.holding import Holding
from unibus_redis.mover import Mover
from unibus_redis.options import capabilities, endpoint
from unibus_redis.sending import Sending
from unibus_redis.subscription import StreamSubscription
from unibus_redis.topology import missing

logger = logging.getLogger("unibus.redis")

_EPHEMERAL_LIFE = 60.0
"""Seconds for which the stream of an ephemeral subscription outlives its subscriber, at least."""
_SENDING_LINKS = 4
"""Where a call waits for a disk or a replica, it holds up its connection."""


class Live(Subscription, Protocol):
    """What the driver has to do with its subscriptions."""

    inbox: Inbox
    holding: Holding

    def start(self) -> None: ...

    async def cut_off(self, reason: Exception) -> None: ...


class RedisDriver:
    """Made by `connect`. See `Options` for what the URL may say."""

    _registers = True

    def __init__(self, url: Url, clock: Clock) -> None:
        self._endpoint = endpoint(url)
        self.options = self._endpoint.options
        self._clock = clock
        self._confirmed: Confirmed = "disk"
        self._away: Exception | None = NotOpen("the Redis driver is not open; call open() first")
        waits = self.options.fsync or self.options.replicas > 0
        self._calls = Calls(self._endpoint, clock)
        self._sending_calls = Calls(self._endpoint, clock, _SENDING_LINKS) if waits else self._calls
        self._sending = Sending(self._sending_calls, self.options, clock)
        self._topology = topology.Topology(self._calls, self._stream, registers=self._registers)
        self._mover = Mover(self._calls, clock)
        self._subscriptions: list[Live] = []

    @property
    def capabilities(self) -> Capabilities:
        return capabilities(self._endpoint, self._confirmed)

    async def open(self) -> None:
        try:
            await self._calls.open()
            self._confirmed = await durability.confirmed(self._calls, self._endpoint)
        except BaseException:
            await self._calls.close()
            raise
        self._away = None

    async def declare(self, topology: Topology) -> None:
        self._check()
        for address in topology.verify:
            await self._topology.verify(address)
        for address in topology.create:
            await self._topology.create(address)

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        self._check()
        if isinstance(address, Topic):
            if any(message.delay > 0 for message in messages):
                raise UnsupportedCapability(f"publishing to {address} with a delay: only what is sent to a queue waits")
            await self._publish(address, messages)
            return
        if isinstance(address, TopicSubscription) and address.group is None:
            raise UnsupportedCapability(f"{address} has no group: nothing can be sent to it alone")
        if not await self._sending.store(self._stream(address), messages):
            await self._mend(address)  # for the next call: these were not stored
            raise BatchError(dict.fromkeys(range(len(messages)), missing(address)), len(messages))

    async def subscribe(self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]) -> Subscription:
        self._check()
        holding = Holding(source, prefetch, self.options.lease, notify, self._clock)
        if isinstance(source, TopicSubscription) and source.group is None:
            subscription = await self._ephemeral(source, holding)
        else:
            await self._topology.look_for(source)
            subscription = self._of_stream(source, self._stream(source), holding)
        self._started(subscription)
        return subscription

    async def depth(self, source: Source) -> Depth:
        self._check()
        return await self._topology.depth(source)

    async def browse(self, source: Source, after: str | None, limit: int) -> tuple[Sequence[Delivery], str | None]:
        """Implements Browser: the entries of the stream, those in somebody's hands among them."""
        self._check()
        if isinstance(source, TopicSubscription) and source.group is None:
            raise UnsupportedCapability(f"{source}: what nobody keeps cannot be looked at")
        stream = self._stream(source) if after is not None else await self._topology.look_for(source)
        first = "-" if after is None else f"({after}"
        found = await self._calls.command(stream, "XRANGE", stream, first, "+", "COUNT", limit)
        shown = [delivery_of(Entry(entry_id, fields, 0, 0.0), source.name) for entry_id, fields in found]
        return shown, found[-1][0].decode() if len(found) == limit else None

    async def forward(self) -> None:
        """Implements Forwarding."""
        self._check()
        await self._mover.forward()

    async def close(self) -> None:
        if self._away is None:
            self._away = NotOpen("the Redis driver is closed")
            for subscription in list(self._subscriptions):
                await subscription.close()
        await self._end()

    async def vanish(self) -> None:
        """For tests: what a killed process looks like to the server. Later calls raise ConnectionLost."""
        self._away = ConnectionLost("the process behind this driver was killed by its test")
        for subscription in list(self._subscriptions):
            await subscription.cut_off(ConnectionLost(*self._away.args))
        await self._end()

    def expire(self) -> None:
        """For tests: all leases end now, as if their renewal had not come through for too long."""
        for subscription in self._subscriptions:
            subscription.holding.expire()

    # --- inside ---------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._away is not None:
            raise type(self._away)(*self._away.args)

    async def _end(self) -> None:
        await self._mover.close()
        await self._calls.close()
        await self._sending_calls.close()

    def _stream(self, source: Source) -> str:
        return keys.of_queue(source) if isinstance(source, Queue) else keys.of_group(source)

    async def _publish(self, topic: Topic, messages: Sequence[Outbound]) -> None:
        if topic.physical is not None:
            raise ConfigurationError(f"topic {topic.name!r} has physical={topic.physical!r}: a topic is no key")
        await self._sending.publish(messages, topic.name)

    async def _mend(self, address: Source) -> None:
        """A queue that we made and somebody deleted, of dead letters perhaps: nobody consumes from it and notices."""
        try:
            await self._topology.mend(address)
        except DriverError as error:
            logger.debug("%s cannot be made anew: %s", address, error)

    async def _ephemeral(self, source: TopicSubscription, holding: Holding) -> StreamSubscription:
        """A stream of its own, that ends some time after its subscriber has fallen silent."""
        stream = keys.of_ephemeral(uuid.uuid4().hex)
        life = max(2 * self.options.lease, _EPHEMERAL_LIFE)

        async def register() -> None:
            await self._topology.register(source, stream, life, replace=True)

        async def forget() -> None:
            await self._topology.forget(stream)

        await register()
        return StreamSubscription(
            source,
            stream,
            self._calls,
            holding,
            self._clock,
            restore=register,
            assure=register,
            leave=forget,
            life=life,
        )

    def _of_stream(self, source: Source, stream: str, holding: Holding) -> StreamSubscription:
        self._mover.add(stream)

        async def leave() -> None:
            await self._mover.remove(stream)

        async def restore() -> None:
            await self._topology.restore(source)

        async def assure() -> None:
            await self._topology.assure(source)

        return StreamSubscription(
            source, stream, self._calls, holding, self._clock, restore=restore, assure=assure, leave=leave
        )

    def _started(self, subscription: Live) -> None:
        self._subscriptions = [live for live in self._subscriptions if not live.inbox.ended]
        self._subscriptions.append(subscription)
        subscription.start()

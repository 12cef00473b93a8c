"""Creating and verifying what is on the broker, on channels that are thrown away: a refusal closes them."""

from __future__ import annotations

import logging
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from aiormq.abc import AbstractChannel

from unibus.driver import Depth, Queue, Source, Topic, TopicSubscription
from unibus.errors import AccessDenied, DestinationNotFound, TopologyMismatch
from unibus_rabbitmq import ladder
from unibus_rabbitmq.bindings import bind, bind_group, check_bindings, patterns, recorded
from unibus_rabbitmq.connection import Connection
from unibus_rabbitmq.consuming import TOPICS
from unibus_rabbitmq.faults import RPC_TIMEOUT, differing_argument, told
from unibus_rabbitmq.features import Features
from unibus_rabbitmq.link import Link

logger = logging.getLogger("unibus.rabbitmq")


def physical_name(source: Source) -> str:
    """The broker's own name of a queue."""
    return source.name if isinstance(source, TopicSubscription) else source.physical or source.name


class Topology:
    """links: asked in this order for a live connection to declare on."""

    def __init__(self, links: Callable[[], list[Link]], features: Features) -> None:
        self._links = links
        self._features = features
        self._created: set[Source] = set()
        self._has_topics = False
        self._has_outlet = False
        self._has_ladder = False
        self._outlets: set[str] = set()

    # --- as the core asks ---------------------------------------------------------------------------

    async def create(self, address: Source | Topic) -> None:
        """Idempotent. A queue with a physical name is looked for only."""
        if isinstance(address, Topic):
            await self.topics()
        elif isinstance(address, Queue) and address.physical is not None:
            await self.verify(address)
        elif isinstance(address, Queue):
            await self._queue(address.name, address.ordering == "key")
            self._created.add(address)
        elif address.group is not None:
            await self.topics()
            await self._queue(address.name, address.ordering == "key")
            async with self._channel() as channel:
                await bind_group(channel, address)
            self._created.add(address)

    async def verify(self, address: Source | Topic) -> None:
        """Raises DestinationNotFound or TopologyMismatch."""
        if isinstance(address, Topic):
            await self.topics()
            return
        if isinstance(address, TopicSubscription) and address.group is None:
            return
        name = physical_name(address)
        await self.ready(name)
        if isinstance(address, Queue) and address.physical is not None:
            return
        await self._check_ordering(name, address.ordering == "key")
        if isinstance(address, TopicSubscription):
            async with self._channel() as channel:
                await check_bindings(channel, address)

    async def depth(self, source: Source) -> Depth:
        ready, _ = await self.ready(physical_name(source))
        return Depth(ready=ready)

    # --- as the driver needs ------------------------------------------------------------------------

    async def ready(self, name: str) -> tuple[int, int]:
        """How many messages are ready in a queue, and how many consumers it has."""
        async with self._channel() as channel, told(f"looking at queue {name!r}"):
            found = await channel.queue_declare(name, passive=True)
        return found.message_count or 0, found.consumer_count or 0

    async def restore(self, source: Source) -> bool:
        """Make anew what was ours and is gone. Returns whether it was."""
        try:
            await self.ready(physical_name(source))
        except DestinationNotFound:
            if source not in self._created:
                raise
        else:
            return False
        await self.create(source)
        return True

    async def rebind(self, source: Source) -> None:
        """Of a group of ours: the exchange of topics may have been deleted, and all bindings with it. Nobody tells."""
        if isinstance(source, TopicSubscription) and source in self._created:
            self._has_topics = False
            await self.topics()
            async with self._channel() as channel:
                known = await recorded(channel, source)
            if known in ([], patterns(source)):  # else another release of the group has come, or gone on, since
                async with self._channel() as channel:
                    await bind(channel, source)

    async def ephemeral(self, channel: AbstractChannel, source: TopicSubscription) -> str:
        """A queue that lives as long as its consumer, on that one's channel; its name."""
        await self.topics()
        name = f"unibus.ephemeral.{uuid.uuid4().hex}"
        async with told(f"declaring a queue for {source}"):
            await channel.queue_declare(name, exclusive=True, auto_delete=True)
            for pattern in source.patterns:
                await channel.queue_bind(name, TOPICS, pattern)
        return name

    async def topics(self) -> None:
        """The exchange of all topics."""
        if not self._has_topics:
            await self._exchange(TOPICS, {})
            self._has_topics = True

    def forget_topics(self) -> None:
        """It may have been deleted."""
        self._has_topics = False

    async def delays(self, destination: str) -> None:
        """The ladder, and the destination at its foot. Raises DestinationNotFound."""
        if not self._has_ladder:
            await self._ladder()
            self._has_ladder = True
        if destination not in self._outlets:
            async with self._channel() as channel, told(f"binding queue {destination!r} for delays"):
                await channel.queue_bind(destination, ladder.OUTLET, ladder.outlet_key(destination))
            self._outlets.add(destination)

    # --- inside -------------------------------------------------------------------------------------

    async def _queue(self, name: str, ordered: bool) -> None:
        arguments = self._features.ordered_arguments if ordered else self._features.queue_arguments
        if self._features.delays:
            await self._outlet()
        async with self._channel() as channel:
            async with told(f"declaring queue {name!r}"):
                await channel.queue_declare(name, durable=True, arguments={**arguments})
            if self._features.delays:
                # At once, and not when somebody first delays: that one may know it from before it was made anew.
                async with told(f"binding queue {name!r} for delays"):
                    await channel.queue_bind(name, ladder.OUTLET, ladder.outlet_key(name))
                self._outlets.add(name)

    async def _outlet(self) -> None:
        if not self._has_outlet:
            await self._exchange(ladder.OUTLET, {"alternate-exchange": ladder.UNDELIVERABLE})
            self._has_outlet = True

    async def _check_ordering(self, name: str, ordered: bool) -> None:
        """A queue tells its arguments only to who tries to declare it with others."""
        with suppress(AccessDenied):  # who may not declare it cannot ask
            try:
                await self._queue(name, ordered)
            except TopologyMismatch as error:
                if differing_argument(error) == "x-single-active-consumer":
                    raise

    async def _exchange(self, name: str, arguments: ladder.Arguments, kind: str = "topic") -> None:
        """Passively first: it is there nearly always, and not everybody may create it."""
        try:
            async with self._channel() as channel, told(f"looking at exchange {name!r}"):
                await channel.exchange_declare(name, passive=True)
            return
        except DestinationNotFound:
            logger.debug("exchange %s is not there yet", name)
        async with self._channel() as channel, told(f"declaring exchange {name!r}"):
            await channel.exchange_declare(name, exchange_type=kind, durable=True, arguments={**arguments})

    async def _ladder(self) -> None:
        """Declared whole each time, so that a missing rung is mended; who may not finds it whole already."""
        try:
            async with self._channel() as channel, told("declaring the queues for delays", 6 * RPC_TIMEOUT):
                await _declare_ladder(channel)
        except AccessDenied:
            async with self._channel() as channel, told("looking at the queues for delays"):
                await channel.exchange_declare(ladder.level(ladder.LEVELS - 1), passive=True)

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[AbstractChannel]:
        connection = await self._connection()
        channel = await connection.channel()
        try:
            yield channel
        finally:
            await connection.close_channel(channel)

    async def _connection(self) -> Connection:
        links = self._links()
        live = [link for link in links if link.connection is not None]
        return await (live or links)[0].ready(RPC_TIMEOUT)


async def _declare_ladder(channel: AbstractChannel) -> None:
    await channel.exchange_declare(ladder.UNDELIVERABLE, exchange_type="fanout", durable=True)
    await channel.queue_declare(ladder.UNDELIVERABLE, durable=True, arguments={"x-queue-type": "quorum"})
    await channel.queue_bind(ladder.UNDELIVERABLE, ladder.UNDELIVERABLE)
    for name, arguments in ladder.exchanges():
        await channel.exchange_declare(name, exchange_type="topic", durable=True, arguments={**arguments})
    for queue in ladder.queues():
        await channel.queue_declare(queue.name, durable=True, arguments={**queue.arguments})
    for binding in ladder.bindings():
        if binding.is_exchange:
            await channel.exchange_bind(binding.destination, binding.source, binding.key)
        else:
            await channel.queue_bind(binding.destination, binding.source, binding.key)

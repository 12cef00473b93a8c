"""The driver: one connection for publishing and, once something is consumed, one for consuming."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import aio_pika

from unibus.driver import (
    Address,
    Blocked,
    Capabilities,
    Clock,
    Depth,
    DriverEvent,
    Gap,
    Outbound,
    Queue,
    Source,
    Topic,
    TopicSubscription,
    Topology,
    Unblocked,
    Url,
)
from unibus.errors import (
    BatchError,
    ConfigurationError,
    ConnectionLost,
    DestinationNotFound,
    DriverError,
    NotOpen,
    UnsupportedCapability,
)
from unibus_rabbitmq import ladder, topology
from unibus_rabbitmq.consuming import TOPICS
from unibus_rabbitmq.features import Features, capabilities, features
from unibus_rabbitmq.link import Link
from unibus_rabbitmq.options import endpoint
from unibus_rabbitmq.publisher import Publisher
from unibus_rabbitmq.publishing import Route
from unibus_rabbitmq.subscription import RabbitSubscription
from unibus_rabbitmq.undeliverable import Undeliverable

logger = logging.getLogger("unibus.rabbitmq")

BEST = (4, 3, 0)
"""The version whose capabilities are told before one is asked."""


class RabbitDriver:
    """Made by `connect`. See `Options` for what the URL may say."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self._endpoint = endpoint(url)
        self._clock = clock
        self._features: Features = features(BEST, self._endpoint.options)
        self._capabilities = capabilities(self._features)
        self._publishing: Link | None = None
        self._consuming: Link | None = None
        self._publisher: Publisher
        self._topology: topology.Topology
        self._undeliverable = Undeliverable(clock, self._count_undeliverable, self._tell_undeliverable)
        self._subscriptions: dict[RabbitSubscription, None] = {}
        self._away: Exception = NotOpen("the driver is not open; call open() first")

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def connection(self) -> aio_pika.Connection | None:
        """aio-pika's own connection, the one that publishes, for what unibus has no word for; None while it is away.

        Open channels of your own on it. It is replaced when the broker comes back, and closed with the bus.
        """
        live = self._publishing.connection if self._publishing is not None else None
        return live.library if live is not None else None

    async def open(self) -> None:
        if self._publishing is not None:
            return
        link = Link(self._endpoint, "publish", self._clock)
        await link.open()
        try:
            connection = await link.ready(0)
            self._features = features(connection.version, self._endpoint.options)
        except BaseException:
            await link.close()
            raise
        self._capabilities = capabilities(self._features)
        self._publishing, self._consuming = link, Link(self._endpoint, "consume", self._clock)
        options = self._endpoint.options
        self._publisher = Publisher(link, self._clock, options.publish_timeout, self._features.max_body)
        self._topology = topology.Topology(self._links, self._features)
        link.listeners[self] = None

    async def declare(self, topology: Topology) -> None:
        self._live()
        for address in topology.verify:
            await self._topology.verify(address)
        for address in topology.create:
            await self._topology.create(address)

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        self._live()
        if isinstance(address, Topic):
            await self._publish(address, messages)
            return
        try:
            await self._send(address, messages)
        except BatchError as failed:
            if any(isinstance(error, DestinationNotFound) for error in failed.errors.values()):
                await self._mend(address)  # for the next call: these were not stored
            raise

    async def subscribe(
        self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]
    ) -> RabbitSubscription:
        self._live()
        link = self._consuming
        assert link is not None
        counted = self._features.counts and source.ordering != "key"
        subscription = RabbitSubscription(
            source, prefetch, notify, link=link, topology=self._topology, counted=counted, clock=self._clock
        )
        await subscription.start()
        self._subscriptions = {live: None for live in self._subscriptions if not live.ended}
        self._subscriptions[subscription] = None
        if self._publishing is not None and self._publishing.blocked is not None:
            subscription.tell(Blocked(self._publishing.blocked))
        return subscription

    async def depth(self, source: Source) -> Depth:
        self._live()
        return await self._topology.depth(source)

    async def close(self) -> None:
        self._undeliverable.stop()
        for subscription in list(self._subscriptions):
            await subscription.close()
        self._subscriptions.clear()
        publishing, consuming, self._publishing, self._consuming = self._publishing, self._consuming, None, None
        if not isinstance(self._away, ConnectionLost):
            self._away = NotOpen("the driver is closed")
        if publishing is not None and consuming is not None:
            self._publisher.close()
            await consuming.close()
            await publishing.close()

    def vanish(self) -> None:
        """For tests: what a killed process looks like to the broker. The sockets are dropped, nothing is notified."""
        self._away = ConnectionLost("the process behind this driver was killed by its test")
        self._undeliverable.stop()
        for subscription in self._subscriptions:
            subscription.abandon()
        for link in self._links():
            link.abandon()
        if self._publishing is not None:
            self._publisher.close()

    def cut_consuming(self) -> None:
        """For tests: the socket of the consuming connection is dropped, as a network drops it."""
        if self._consuming is not None and self._consuming.connection is not None:
            self._consuming.connection.abort("cut by a test")

    # --- told by the publishing link ----------------------------------------------------------------

    def lost(self, reason: str) -> None:
        self._topology.forget_topics()

    def blocked(self, reason: str | None) -> None:
        for subscription in list(self._subscriptions):
            subscription.tell(Unblocked() if reason is None else Blocked(reason))

    # --- inside -------------------------------------------------------------------------------------

    def _links(self) -> list[Link]:
        """For declaring: a broker that is short of memory reads nothing from who publishes."""
        return [link for link in (self._consuming, self._publishing) if link is not None]

    def _live(self) -> None:
        if self._publishing is None or isinstance(self._away, ConnectionLost):
            raise type(self._away)(*self._away.args)

    async def _mend(self, address: Source) -> None:
        """A queue that we made and somebody deleted, of dead letters perhaps: nobody consumes from it and notices."""
        try:
            await self._topology.restore(address)
        except DriverError as error:
            logger.debug("%s cannot be made anew: %s", address, error)

    def _destination(self, address: Queue | TopicSubscription) -> str:
        if isinstance(address, TopicSubscription) and address.group is None:
            raise UnsupportedCapability(f"{address} has no group: nothing can be sent to it alone")
        return topology.physical_name(address)

    async def _send(self, address: Queue | TopicSubscription, messages: Sequence[Outbound]) -> None:
        name = self._destination(address)
        plain = Route("", name, True, None, name)
        told = [plain if message.topic is None else plain._replace(topic=message.topic) for message in messages]
        later = [index for index, message in enumerate(messages) if message.delay > 0]
        if not later:
            await self._publisher.send("queues", messages, told)
            return
        await self._send_with_delays(name, messages, told, later)

    async def _publish(self, address: Topic, messages: Sequence[Outbound]) -> None:
        if address.physical is not None:
            raise ConfigurationError(
                f"topic {address.name!r} has physical={address.physical!r}: a topic is a routing key"
            )
        if any(message.delay > 0 for message in messages):
            raise UnsupportedCapability(f"publishing to {address} with a delay: only what is sent to a queue can wait")
        await self._topology.topics()
        topics = [message.topic or address.name for message in messages]
        try:
            await self._publisher.send("topics", messages, [Route(TOPICS, name, False, None, name) for name in topics])
        except BatchError:
            self._topology.forget_topics()
            raise

    async def _send_with_delays(
        self, name: str, messages: Sequence[Outbound], told: list[Route], later: list[int]
    ) -> None:
        """Two calls, since they go by channels of their own; errors are by index in the whole."""
        self._check_delays(name, [messages[index].delay for index in later])
        try:
            await self._topology.delays(name)
        except DriverError as error:
            if len(later) == len(messages):
                raise BatchError(dict.fromkeys(range(len(messages)), error), len(messages)) from error
            raise
        self._undeliverable.watch()
        waiting = set(later)
        at_once = [index for index in range(len(messages)) if index not in waiting]
        errors: dict[int, Exception] = {}
        routes = {index: self._delayed(told[index], messages[index].delay) for index in later}
        for kind, indices in (("queues", at_once), ("delays", later)):
            try:
                await self._publisher.send(
                    kind, [messages[index] for index in indices], [routes.get(index, told[index]) for index in indices]
                )
            except BatchError as failed:
                errors.update((indices[position], error) for position, error in failed.errors.items())
        if errors:
            raise BatchError(errors, len(messages))

    async def _count_undeliverable(self) -> int:
        ready, _ = await self._topology.ready(ladder.UNDELIVERABLE)
        return ready

    def _tell_undeliverable(self, came: int) -> None:
        """One consumer says it for all: the core counts and logs it, and tells of it in its figures."""
        logger.debug("%d delayed messages had no queue to go to and lie in %s", came, ladder.UNDELIVERABLE)
        for subscription in list(self._subscriptions)[:1]:
            subscription.tell(Gap(came))

    def _check_delays(self, name: str, delays: list[float]) -> None:
        if not self._features.delays:
            raise UnsupportedCapability(
                "this RabbitMQ is older than 3.10 and cannot delay messages without losing some"
            )
        if max(delays) > ladder.LONGEST:
            raise UnsupportedCapability(f"a delay of {max(delays):g} s: {ladder.LONGEST:g} s is the most")
        if len(name.encode()) > ladder.MAX_NAME:
            raise UnsupportedCapability(
                f"queue {name!r}: a name of over {ladder.MAX_NAME} bytes leaves no room for delays"
            )

    def _delayed(self, route: Route, delay: float) -> Route:
        exchange, routing_key = ladder.entrance(delay, route.routing_key)
        return route._replace(exchange=exchange, routing_key=routing_key)

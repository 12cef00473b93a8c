"""The driver of `sqs://`: queues of SQS, topics through SNS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unibus.driver import (
    Address,
    Capabilities,
    Clock,
    Depth,
    DriverEvent,
    Outbound,
    Source,
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
    DriverError,
    NotOpen,
    UnsupportedCapability,
)
from unibus_sqs.batching import Batches
from unibus_sqs.clients import Clients
from unibus_sqs.failures import of_search
from unibus_sqs.limits import MAX_BYTES, MAX_PUBLISHED_BYTES
from unibus_sqs.options import capabilities, place
from unibus_sqs.queues import Queues
from unibus_sqs.subscription import SqsSubscription
from unibus_sqs.topics import Topics
from unibus_sqs.wire import entry_of


class SqsDriver:
    """Confirmed means: SQS, or SNS, has answered for the message by name. See `Options` for what the URL may say."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self._place = place(url)
        self._clock = clock
        self._away: Exception | None = NotOpen("the SQS driver is not open; call open() first")
        self._clients = Clients(self._place)
        self._queues = Queues(self._clients)
        self._topics = Topics(self._clients, self._queues)
        patience = self._place.options.timeout
        self._sends = Batches(body="MessageBody", most=MAX_BYTES, patience=patience, clock=clock)
        self._publishes = Batches(body="Message", most=MAX_PUBLISHED_BYTES, patience=patience, clock=clock)
        self._made: set[Source] = set()
        """What we were told to create: it is made anew if somebody deletes it."""
        self._subscriptions: dict[SqsSubscription, None] = {}

    @property
    def capabilities(self) -> Capabilities:
        return capabilities(self._place.options)

    @property
    def sqs(self) -> Any:
        """aiobotocore's own client of SQS, for what unibus has no word for; closed with the bus."""
        return self._clients.sqs

    @property
    def sns(self) -> Any:
        """The same of SNS."""
        return self._clients.sns

    async def open(self) -> None:
        await self._clients.open()
        self._away = None

    async def declare(self, topology: Topology) -> None:
        self._check()
        for address in topology.verify:
            if not isinstance(address, Topic):
                await self._queues.verify(address)
        for address in topology.create:
            if not isinstance(address, Topic):
                await self._create(address)

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        self._check()
        if isinstance(address, Topic):
            errors = await self._publish(address, messages)
        else:
            errors = await self._send(address, messages)
        if errors:
            raise BatchError(errors, len(messages))

    async def subscribe(
        self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]
    ) -> SqsSubscription:
        self._check()
        await self._queues.verify(source)
        await self._queues.check_redrive(source)
        subscription = SqsSubscription(
            source, await self._queues.url(source), prefetch, notify,
            clients=self._clients, options=self._place.options, batches=self._sends,
            restore=lambda: self._restore(source), clock=self._clock,
        )  # fmt: skip
        self._subscriptions = {live: None for live in self._subscriptions if not live.inbox.ended}
        self._subscriptions[subscription] = None
        subscription.start()
        return subscription

    async def depth(self, source: Source) -> Depth:
        self._check()
        return await self._queues.depth(source)

    async def close(self) -> None:
        if self._away is None:
            self._away = NotOpen("the SQS driver is closed")
            for subscription in list(self._subscriptions):
                await subscription.close()
            await self._clients.close()

    async def vanish(self) -> None:
        """For tests: what a killed process looks like to the server. Later calls raise ConnectionLost."""
        self._away = ConnectionLost("the process behind this driver was killed by its test")
        for subscription in list(self._subscriptions):
            await subscription.cut_off(ConnectionLost(*self._away.args))
        await self._clients.close()

    # --- topology -------------------------------------------------------------------------------------

    async def _create(self, source: Source) -> None:
        url = await self._queues.create(source)
        if isinstance(source, TopicSubscription):
            await self._topics.join(source, url)
        self._made.add(source)

    async def _restore(self, source: Source) -> tuple[str, bool]:
        """The URL of a queue that was gone, and whether it is a new one."""
        self._queues.forget(source)
        try:
            return await self._queues.url(source), False
        except DestinationNotFound:
            if source not in self._made:
                raise
        await self._create(source)
        return await self._queues.url(source), True

    # --- sending --------------------------------------------------------------------------------------

    async def _send(self, address: Source, messages: Sequence[Outbound]) -> dict[int, Exception]:
        group, ordered = isinstance(address, TopicSubscription), address.ordering == "key"
        if ordered and any(message.delay > 0 for message in messages):
            raise UnsupportedCapability(f"{address} is ordered, and SQS does not delay single messages of such a queue")
        entries = [
            entry_of(message, place, message.topic, body="MessageBody", ordered=ordered, direct=group)
            for place, message in enumerate(messages)
        ]
        try:
            url = await self._queues.url(address)
        except DriverError as error:
            return dict.fromkeys(range(len(messages)), of_search(error))

        async def call(batch: list[Any]) -> Any:
            return await self._clients.sqs.send_message_batch(QueueUrl=url, Entries=batch)

        errors = await self._sends.send(entries, call, ordered=ordered)
        if any(isinstance(error, DestinationNotFound) for error in errors.values()):
            await self._mend(address)
        return errors

    async def _mend(self, address: Source) -> None:
        """For the next call: these were not stored. Of a queue for dead letters there is no consumer that notices."""
        self._queues.forget(address)
        if address in self._made:
            try:
                await self._restore(address)
            except DriverError:
                return  # the next call says so itself

    async def _publish(self, address: Topic, messages: Sequence[Outbound]) -> dict[int, Exception]:
        if address.physical is not None:
            raise ConfigurationError(
                f"topic {address.name!r} has physical={address.physical!r}; all topics of a bus go through one of SNS"
            )
        if any(message.delay > 0 for message in messages):
            raise UnsupportedCapability(f"publishing to {address} with a delay: only what is sent to a queue can wait")
        ordered = address.ordering == "key"
        entries = [
            entry_of(message, place, message.topic or address.name, body="Message", ordered=ordered, direct=False)
            for place, message in enumerate(messages)
        ]

        async def call(batch: list[Any]) -> Any:
            return await self._topics.publish(batch, ordered=ordered)

        return await self._publishes.send(entries, call, ordered=ordered)

    def _check(self) -> None:
        if self._away is not None:
            raise type(self._away)(*self._away.args)

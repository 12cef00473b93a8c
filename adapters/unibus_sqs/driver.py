"""The driver of `sqs://`: queues of SQS, topics through SNS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from unibus.driver import (
    Address,
    Capabilities,
    Clock,
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
from unibus_sqs.groups import Groups
from unibus_sqs.limits import MAX_PUBLISHED_BYTES
from unibus_sqs.options import capabilities, place
from unibus_sqs.ordered_groups import OrderedGroups
from unibus_sqs.queues import Queues
from unibus_sqs.subscription import SqsSubscription
from unibus_sqs.topics import Topics, back_within
from unibus_sqs.wire import entry_of


class SqsDriver:
    """Confirmed means: SQS, or SNS, has answered for the message by name. See `Options` for what the URL may say."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self._place = place(url)
        self._clock = clock
        self._away: Exception | None = NotOpen("the SQS driver is not open; call open() first")
        self._clients = Clients(self._place, clock)
        self._queues = Queues(self._clients)
        self._topics = Topics(self._clients, clock, back_within(self._place.options))
        self._groups = Groups(self._clients, self._queues, self._topics)
        self._ordered_groups = OrderedGroups(self._clients, clock)
        patience, most = self._place.options.timeout, self._place.options.max_body
        self._sends = Batches(body="MessageBody", most=most, patience=patience, clock=clock)
        self._publishes = Batches(body="Message", most=min(most, MAX_PUBLISHED_BYTES), patience=patience, clock=clock)
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
                await self._verify(address)
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
            restore=lambda: self._restore(source), rejoined=lambda url: self._rejoined(source, url), clock=self._clock,
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
            await asyncio.gather(*[subscription.close() for subscription in self._subscriptions])
            await self._clients.close()

    async def vanish(self) -> None:
        """For tests: what a killed process looks like to the server. Later calls raise ConnectionLost."""
        self._away = ConnectionLost("the process behind this driver was killed by its test")
        for subscription in list(self._subscriptions):
            await subscription.cut_off(ConnectionLost(*self._away.args))
        await self._clients.close()

    def expire(self) -> None:
        """For tests: all leases end now, as they do when a process was suspended."""
        for subscription in self._subscriptions:
            subscription.expire()

    # --- topology -------------------------------------------------------------------------------------

    async def _create(self, source: Source) -> None:
        self._check_topics(source)
        url = await self._queues.create(source)
        if isinstance(source, TopicSubscription):
            await self._groups.join(source, url)
            self._ordered_groups.look_again()
        self._made.add(source)

    async def _verify(self, source: Source) -> None:
        self._check_topics(source)
        await self._queues.verify(source)
        if isinstance(source, TopicSubscription):
            await self._groups.check_patterns(source, await self._queues.url(source))

    async def _rejoined(self, source: Source, url: str) -> bool:
        """Whether it had to be subscribed again. Only what is ours to make is mended."""
        if not isinstance(source, TopicSubscription) or source not in self._made:
            return False
        return await self._groups.rejoined(source, url)

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
            return await self._clients.in_time(self._clients.sqs.send_message_batch(QueueUrl=url, Entries=batch))

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
        self._check_topics(address)
        if address.physical is not None:
            raise ConfigurationError(
                f"topic {address.name!r} has physical={address.physical!r}; all topics of a bus go through one of SNS"
            )
        if any(message.delay > 0 for message in messages):
            raise UnsupportedCapability(f"publishing to {address} with a delay: only what is sent to a queue can wait")
        ordered = address.ordering == "key"
        try:
            arn = await self._topics.arn(ordered)
            errors = await self._refused(address, messages, arn)
        except DriverError as error:
            return dict.fromkeys(range(len(messages)), of_search(error))
        entries = [
            entry_of(message, place, message.topic or address.name, body="Message", ordered=ordered, direct=False)
            for place, message in enumerate(messages)
            if place not in errors
        ]

        async def call(batch: list[Any]) -> Any:
            return await self._topics.publish(arn, batch)

        failed = await self._publishes.send(entries, call, ordered=ordered)
        return errors | self._topics.found_deleted(ordered, failed)

    async def _refused(self, address: Topic, messages: Sequence[Outbound], arn: str) -> dict[int, Exception]:
        """What would be confirmed, and not reach a group that wants it."""
        ordered = address.ordering == "key"
        if (deleted := self._topics.deleted(ordered)) is not None:
            return dict.fromkeys(range(len(messages)), deleted)
        if ordered:
            return {}
        topics = [message.topic or address.name for message in messages]
        refusals = await self._ordered_groups.refusals(topics, arn)
        return {place: refusals[topic] for place, topic in enumerate(topics) if topic in refusals}

    def _check_topics(self, address: Address) -> None:
        if not self._place.options.topics and not isinstance(address, Queue):
            raise UnsupportedCapability(f"{address} needs topics, and the URL says topics=off")

    def _check(self) -> None:
        if self._away is not None:
            raise type(self._away)(*self._away.args)

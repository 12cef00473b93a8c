"""The driver of `sqs://`: queues of SQS, topics through SNS."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session

from unibus.driver import (
    Address,
    Capabilities,
    Clock,
    Depth,
    DriverEvent,
    Outbound,
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
    Rejected,
    TopologyMismatch,
)
from unibus_sqs import names
from unibus_sqs.failures import FOREIGN, of_entry, of_send, translate, translated
from unibus_sqs.options import MAX_BYTES, Options, capabilities
from unibus_sqs.subscription import SqsSubscription
from unibus_sqs.topics import Topics, policy_for
from unibus_sqs.wire import entry_of, size_of

_PATTERNS = "unibus-patterns"
_MISSING = (DestinationNotFound,)


class SqsDriver:
    """Confirmed means: SQS, or SNS, has answered for the message by name."""

    def __init__(self, url: Url, clock: Clock) -> None:
        if not url.host or url.port or url.path.strip("/") or url.username or url.password:
            raise ConfigurationError(f"{url}: the URL names a region and nothing else, as in sqs://eu-west-1")
        self.options = url.parse_options(Options)
        self._region = url.host
        self._clock = clock
        self._away: Exception | None = NotOpen("the SQS driver is not open; call open() first")
        self._stack = AsyncExitStack()
        self._sqs: Any = None
        self._topics: Topics
        self._urls: dict[str, str] = {}
        self._ordered_topics: set[str] = set()
        self._subscriptions: list[SqsSubscription] = []

    @property
    def capabilities(self) -> Capabilities:
        return capabilities(self.options)

    async def open(self) -> None:
        # Not even once again by the client: a send whose answer was lost would be stored twice, in silence.
        config = AioConfig(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=self.options.timeout,
            read_timeout=self.options.timeout + self.options.wait,
            max_pool_connections=100,
        )
        session = get_session()
        made = [
            await self._stack.enter_async_context(
                session.create_client(
                    service, region_name=self._region, endpoint_url=self.options.endpoint, config=config
                )
            )
            for service in ("sqs", "sns")
        ]
        self._sqs, self._topics = made[0], Topics(made[1])
        try:
            with translated("connecting"):
                await self._sqs.list_queues(MaxResults=1)
        except BaseException:
            await self._stack.aclose()
            raise
        self._away = None

    async def declare(self, topology: Topology) -> None:
        self._check()
        for address in topology.verify:
            await self._verify(address)
        for address in topology.create:
            if isinstance(address, Topic):
                self._note(address)
            else:
                await self._create(address)

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        self._check()
        if isinstance(address, Topic):
            errors = await self._publish(address, messages)
        else:
            errors = await self._send_to_queue(address, messages)
        if errors:
            raise BatchError(errors, len(messages))

    async def subscribe(self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]) -> Subscription:
        self._check()
        await self._verify(source)
        subscription = SqsSubscription(
            source, await self._url(source), self._sqs, self.options, prefetch, notify, self._clock
        )
        self._subscriptions = [live for live in self._subscriptions if not live.inbox.ended]
        self._subscriptions.append(subscription)
        subscription.start()
        return subscription

    async def depth(self, source: Source) -> Depth:
        self._check()
        wanted = {
            "ready": "ApproximateNumberOfMessages",
            "in_flight": "ApproximateNumberOfMessagesNotVisible",
            "delayed": "ApproximateNumberOfMessagesDelayed",
        }
        url = await self._url(source)
        with translated(f"asking for the depth of {source}"):
            answer = await self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(wanted.values()))
        return Depth(**{ours: int(answer["Attributes"][theirs]) for ours, theirs in wanted.items()})

    async def close(self) -> None:
        if self._away is None:
            self._away = NotOpen("the SQS driver is closed")
            for subscription in list(self._subscriptions):
                await subscription.close()
            await self._stack.aclose()

    async def vanish(self) -> None:
        """For tests: what a killed process looks like to the server. Later calls raise ConnectionLost."""
        self._away = ConnectionLost("the process behind this driver was killed by its test")
        for subscription in list(self._subscriptions):
            await subscription.cut_off(ConnectionLost(*self._away.args))
        await self._stack.aclose()

    # --- topology -------------------------------------------------------------------------------------

    async def _verify(self, address: Source | Topic) -> None:
        if isinstance(address, Topic):
            self._note(address)
            return
        try:
            await self._url(address)
        except DestinationNotFound:
            await self._refuse_other(address)
            raise

    def _note(self, topic: Topic) -> None:
        """Messages say their topic's name alone; that it is ordered is known from its declaration."""
        if topic.ordering == "key":
            self._ordered_topics.add(topic.name)

    async def _refuse_other(self, source: Source) -> None:
        """The other ordering is another queue for SQS, and a mistake for us."""
        try:
            await self._url_of(names.other_name(source))
        except DestinationNotFound:
            return
        raise TopologyMismatch(f"{source} exists as {names.other_name(source)!r}, with the other ordering")

    async def _create(self, source: Source) -> None:
        await self._refuse_other(source)
        name = names.queue_name(source)
        with translated(f"creating {name!r}"):
            attributes = {"FifoQueue": "true"} if source.ordering == "key" else {}
            made = await self._sqs.create_queue(QueueName=name, Attributes=attributes)
            self._urls[name] = made["QueueUrl"]
            if isinstance(source, TopicSubscription):
                await self._join(source, made["QueueUrl"])

    async def _join(self, group: TopicSubscription, url: str) -> None:
        tags = (await self._sqs.list_queue_tags(QueueUrl=url)).get("Tags", {})
        wanted = names.as_tag(group.patterns)
        if tags.get(_PATTERNS, wanted) != wanted:
            raise TopologyMismatch(f"{group} exists with the patterns {tags[_PATTERNS]!r}, not {wanted!r}")
        answer = await self._sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        arn = answer["Attributes"]["QueueArn"]
        topics = f"{arn.rsplit(':', 1)[0].replace(':sqs:', ':sns:')}:{names.TOPIC}*"
        await self._sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy_for(arn, topics)})
        await self._topics.connect(group, arn)
        await self._sqs.tag_queue(QueueUrl=url, Tags={_PATTERNS: wanted})

    async def _url(self, source: Source) -> str:
        return await self._url_of(names.queue_name(source))

    async def _url_of(self, name: str) -> str:
        if name not in self._urls:
            with translated(f"looking for {name!r}"):
                self._urls[name] = (await self._sqs.get_queue_url(QueueName=name))["QueueUrl"]
        return self._urls[name]

    # --- sending --------------------------------------------------------------------------------------

    async def _send_to_queue(self, address: Source, messages: Sequence[Outbound]) -> dict[int, Exception]:
        group = isinstance(address, TopicSubscription)
        ordered = address.ordering == "key"
        errors: dict[int, Exception] = {}
        entries = []
        for place, message in enumerate(messages):
            entry = entry_of(message, place, message.topic, body="MessageBody", ordered=ordered, direct=group)
            if message.delay > 0:
                if ordered:
                    errors[place] = Rejected(f"{address} is ordered, and SQS does not delay a message of such a queue")
                    continue
                entry["DelaySeconds"] = math.ceil(message.delay)
            if size_of(entry, "MessageBody") > MAX_BYTES:
                errors[place] = Rejected(f"message {message.message_id} is over {MAX_BYTES:,} bytes once encoded")
                continue
            entries.append(entry)
        if entries:
            errors |= await self._call(address, entries)
        return errors

    async def _call(self, address: Source, entries: list[Any]) -> dict[int, Exception]:
        try:
            url = await self._url(address)
            answer = await self._sqs.send_message_batch(QueueUrl=url, Entries=entries)
        except DestinationNotFound as error:
            return dict.fromkeys((int(entry["Id"]) for entry in entries), error)
        except FOREIGN as error:
            if isinstance(translate(error, ""), _MISSING):
                self._urls.pop(names.queue_name(address), None)
            return dict.fromkeys((int(entry["Id"]) for entry in entries), of_send(error))
        return {int(failed["Id"]): of_entry(failed) for failed in answer.get("Failed", ())}

    async def _publish(self, address: Topic, messages: Sequence[Outbound]) -> dict[int, Exception]:
        self._note(address)
        errors: dict[int, Exception] = {}
        for ordered in (False, True):
            chosen = [
                (place, message)
                for place, message in enumerate(messages)
                if ((message.topic or address.name) in self._ordered_topics) is ordered
            ]
            if chosen:
                topics = [message.topic or address.name for _, message in chosen]
                errors |= await self._topics.publish(chosen, topics, ordered=ordered)
        return errors

    def _check(self) -> None:
        if self._away is not None:
            raise type(self._away)(*self._away.args)

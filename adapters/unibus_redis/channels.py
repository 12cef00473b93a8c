"""The driver of `redis+pubsub://`: queues are streams, topics are channels and promise nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from unibus.driver import (
    Capabilities,
    Delivery,
    DriverEvent,
    Outbound,
    Outcome,
    Queue,
    Source,
    Subscription,
    Topic,
    TopicSubscription,
)
from unibus.errors import DestinationNotFound, TopologyMismatch
from unibus_redis import scripts
from unibus_redis.calls import Argument
from unibus_redis.driver import RedisDriver
from unibus_redis.entries import Entry, fields_of
from unibus_redis.listener import Listener
from unibus_redis.registry import described
from unibus_redis.structured import encoded
from unibus_redis.subscription import StreamSubscription

_PARKED = "unibus.parked"

_PUBLISH = "for i = 1, #ARGV, 2 do redis.call('PUBLISH', ARGV[i], ARGV[i + 1]) end"


class PubSubDriver(RedisDriver):
    """A group hears every message in each of its members; one of them wins it. What fails is parked in
    a stream of the group, and is durable from then on."""

    @property
    def capabilities(self) -> Capabilities:
        return replace(
            super().capabilities, topic_guarantee="at_most_once", topic_ordering="none", ephemeral="native",
            patterns="native",
        )  # fmt: skip

    async def subscribe(self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]) -> Subscription:
        if isinstance(source, Queue):
            return await super().subscribe(source, prefetch=prefetch, notify=notify)
        self._check()
        if source.group is not None:
            await self._verify(source)
        subscription = ChannelSubscription(
            source, self._stream(source), 0.0, self._calls, self._own_calls(), self.options, prefetch, notify,
            self._clock,
        )  # fmt: skip
        await subscription.go_live(self._own_calls())
        return self._started(subscription)

    def _stream(self, source: Source) -> str:
        return source.name if isinstance(source, Queue) else f"{_PARKED}.{source.group}"

    async def _register(self, subscription: TopicSubscription, stream: str, life: float) -> None:
        text = described(subscription)
        was = await self._calls.script(scripts.DECLARE_QUEUE, [stream, _PARKED], [text])
        if was:
            raise TopologyMismatch(f"{subscription} exists with {was.decode()}, not with {text}; use another name")

    async def _verify(self, address: Source | Topic) -> None:
        if isinstance(address, TopicSubscription) and address.group is None:
            raise DestinationNotFound(f"{address} has nothing that could be verified")
        await super()._verify(address)

    async def _publish(self, topic: Topic, messages: Sequence[Outbound], connection: object) -> None:
        arguments: list[Argument] = []
        for message in messages:
            arguments += [message.topic or topic.name, encoded(message)]
        await self._calls.write(_PUBLISH, [], arguments, connection)


class ChannelSubscription(StreamSubscription):
    """Hears channels and, with a group, reads the stream of what the group has parked."""

    _listener: Listener

    async def go_live(self, calls: Any) -> None:
        assert isinstance(self.source, TopicSubscription)
        self._listener = Listener(self.source, calls, self._calls, self.inbox, self.notify, self._clock)
        await self._listener.go_live()

    def start(self) -> None:
        self._listener.start()
        if self._grouped:
            super().start()

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        heard = [delivery for delivery in deliveries if delivery.token is None]
        if heard:
            ours, _ = self.inbox.begin(heard)
            if outcome is Outcome.NACK:
                await self._return(ours)
            self.inbox.done(ours)
        stored = [delivery for delivery in deliveries if delivery.token is not None]
        if stored:
            await super().settle(stored, outcome, delay=delay)

    async def close(self) -> None:
        await self._listener.close()
        await super().close()

    async def cut_off(self, reason: Exception) -> None:
        await self._listener.close()
        await super().cut_off(reason)

    async def _return(self, deliveries: Sequence[Delivery]) -> None:
        if not self._grouped:
            self.inbox.put(deliveries)
            return
        arguments: list[Argument] = []
        for one in deliveries:
            message = Outbound(one.body, dict(one.attributes), one.headers, one.key, one.message_id)
            fields = fields_of(message, one.address)
            arguments += [len(fields), *fields]
        await self._calls.script(scripts.SEND, [self.stream], arguments)

    async def _leave(self, left: list[Delivery], handed_out: set[Delivery]) -> None:
        if not self._grouped:
            return
        unheard = [one for one in left if one.token is None and one not in handed_out]
        if unheard:
            await self._return(unheard)
        await super()._leave([one for one in left if isinstance(one.token, Entry)], handed_out)

    async def _end_task(self) -> None:
        if self._grouped:
            await super()._end_task()

    @property
    def _grouped(self) -> bool:
        return isinstance(self.source, TopicSubscription) and self.source.group is not None

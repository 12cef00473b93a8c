"""The driver of `redis+pubsub://`: queues are streams, topics are channels and promise nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

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
)
from unibus.errors import BatchError, SettlementLost
from unibus_redis import keys, scripts
from unibus_redis.driver import RedisDriver
from unibus_redis.failures import FOREIGN, Unreached, of_send
from unibus_redis.holding import Holding
from unibus_redis.link import Argument
from unibus_redis.listener import Listener
from unibus_redis.sending import Sending
from unibus_redis.structured import encoded
from unibus_redis.subscription import StreamSubscription


class PubSubDriver(RedisDriver):
    """A group hears every message in each of its members; one of them wins it. What fails is parked in
    a stream of the group, and is durable from then on."""

    _registers = False

    @property
    def capabilities(self) -> Capabilities:
        return replace(
            super().capabilities, topic_guarantee="at_most_once", topic_ordering="none", ephemeral="native",
        )  # fmt: skip

    async def subscribe(self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]) -> Subscription:
        if isinstance(source, Queue):
            return await super().subscribe(source, prefetch=prefetch, notify=notify)
        self._check()
        holding = Holding(source, prefetch, self.options.lease, notify, self._clock)
        parked = None
        if source.group is not None:
            await self._topology.look_for(source)
            parked = self._of_stream(source, self._stream(source), holding)
        listener = Listener(source, self._calls, holding.inbox, notify, self._clock)
        await listener.go_live()
        subscription = ChannelSubscription(listener, holding, parked, self._sending)
        self._started(subscription)
        return subscription

    def _stream(self, source: Source) -> str:
        return keys.of_queue(source) if isinstance(source, Queue) else keys.of_parked(source)

    async def _publish(self, topic: Topic, messages: Sequence[Outbound]) -> None:
        arguments: list[Argument] = []
        for message in messages:
            arguments += (message.topic or topic.name, encoded(message))
        call = scripts.ANNOUNCE.call([], arguments)
        try:
            await self._calls.request(keys.VERSION, [call], scripts.ANNOUNCE)
        except (Unreached, *FOREIGN) as error:
            raise BatchError(dict.fromkeys(range(len(messages)), of_send(error)), len(messages)) from error


class ChannelSubscription:
    """Hears channels and, with a group, reads the stream of what the group has parked."""

    def __init__(
        self, listener: Listener, holding: Holding, parked: StreamSubscription | None, sending: Sending
    ) -> None:
        self.inbox = holding.inbox
        self._listener = listener
        self.holding = holding
        self._parked = parked
        self._sending = sending
        self._closed = False

    def start(self) -> None:
        self._listener.start()
        if self._parked is not None:
            self._parked.start()

    # --- the seam -------------------------------------------------------------------------------------

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Delivery]:
        return await self.inbox.receive(max_messages, max_wait)

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        heard = [delivery for delivery in deliveries if delivery.token is None]
        stale = 0
        if heard:
            ours, stale = self.inbox.begin(heard)
            try:
                if outcome is Outcome.NACK and ours:
                    await self._park(ours)
            except BaseException:
                self.inbox.failed(ours)
                raise
            self.inbox.done(ours)
        stored = [delivery for delivery in deliveries if delivery.token is not None]
        if stored and self._parked is not None:
            await self._parked.settle(stored, outcome, delay=delay)
        if stale:
            raise SettlementLost(f"{stale} deliveries were not ours any more", count=stale)

    async def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Implements LeaseExtender, for what is parked; what was heard is nobody else's."""
        if self._parked is not None:
            await self._parked.extend(deliveries, seconds)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._listener.close()
        unheard = [delivery for delivery in self.inbox.ready if delivery.token is None]
        try:
            if unheard:
                await self._park(unheard)
        finally:
            if self._parked is not None:
                await self._parked.close()
            self.inbox.end()

    async def cut_off(self, reason: Exception) -> None:
        """For tests: nothing is given back, and nobody is told."""
        self._closed = True
        await self._listener.close()
        if self._parked is not None:
            await self._parked.cut_off(reason)
        self.inbox.end(reason)

    async def _park(self, deliveries: Sequence[Delivery]) -> None:
        """With a group they are durable from now on; without one they are handed out again, or gone."""
        if self._parked is None:
            self.inbox.put(deliveries)
            return
        messages = [
            Outbound(one.body, dict(one.attributes), one.headers, one.key, one.message_id, topic=one.address)
            for one in deliveries
        ]
        await self._sending.store(self._parked.stream, messages)

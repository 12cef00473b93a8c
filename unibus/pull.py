"""Pulling: deliveries one by one, settled by hand. No middlewares; the core still acts."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from unibus import codec
from unibus.address import Queue, TopicSubscription
from unibus.driver import Delivery
from unibus.errors import DecodeError, NotOpen
from unibus.message import Message
from unibus.middleware.retry import DEFAULT_RETRY
from unibus.outcome import Reject, Retry
from unibus.plan import Folded, Plan
from unibus.signature import Signature
from unibus.stats import ConsumerStats

if TYPE_CHECKING:
    from unibus.bus import Bus
    from unibus.consumer import Consumer

logger = logging.getLogger("unibus.consumer")

T = TypeVar("T")


class PulledDelivery(Generic[T]):
    """One message in hand: call one of ack, retry, reject. Unsettled ones are given back at exit."""

    def __init__(self, consumer: Consumer, message: Message[T]) -> None:
        self._consumer = consumer
        self.message = message

    @property
    def data(self) -> T:
        return self.message.data

    @property
    def headers(self) -> Mapping[str, str]:
        return self.message.headers

    async def ack(self) -> None:
        """Done with it. Returns once that is on its way; `SettlementLost` is counted, not raised."""
        self._consumer.settler.ack(self.message.delivery)
        self._consumer.finished(self.message.delivery)

    async def retry(self, after: float | timedelta = 0.0) -> None:
        """Once more, after so many seconds, with the attempt counted; re-sent and confirmed before it is acked."""
        await self._consumer.verdicts.carry_out(self.message.delivery, self.message, Retry(after))

    async def reject(self, reason: str = "rejected") -> None:
        """To the dead letters; confirmed before it is acked."""
        await self._consumer.verdicts.carry_out(self.message.delivery, self.message, Reject(reason))


class Pull(Generic[T]):
    """An open pull: `async for delivery in deliveries`, or `await deliveries.next(max_wait)`."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        bus: Bus,
        queue: str | Queue | None,
        topics: tuple[str, ...],
        group: str | None,
        annotation: Any,
        prefetch: int,
    ) -> AsyncIterator[Pull[Any]]:
        from unibus.consumer import Consumer

        session = bus.session
        source = TopicSubscription(topics, group) if queue is None else session.addresses.queue(queue)
        plan = _plan(source, annotation, prefetch)
        await session.declare_source(plan)
        consumer = Consumer(plan, Folded(None, None, ConsumerStats()), session)
        pull = cls(consumer)
        await consumer.start()
        try:
            yield pull
        finally:
            pull._closed = True
            async with bus.grace_period() as over:
                await consumer.stop(over)

    def __aiter__(self) -> Pull[T]:
        return self

    async def __anext__(self) -> PulledDelivery[T]:
        while True:
            delivery = await self.next()
            if delivery is not None:
                return delivery

    async def next(self, max_wait: float | None = None) -> PulledDelivery[T] | None:
        """The next delivery, or None after `max_wait` seconds (None: wait for ever).

        What cannot be decoded goes to the dead letters at once, as with a handler.
        """
        consumer = self._consumer
        until = None if max_wait is None else consumer.clock.monotonic() + max_wait
        while True:
            if self._closed:
                raise NotOpen("this pull is closed; pull inside its `async with`")
            if consumer.buffer.items:
                found = await self._take(consumer.buffer.items.popleft())
                if found is not None:
                    return found
                continue
            left = None if until is None else until - consumer.clock.monotonic()
            if left is not None and left <= 0:
                return None
            await consumer.buffer.wait(left)

    async def _take(self, delivery: Delivery) -> PulledDelivery[T] | None:
        try:
            attempt = self._consumer.verdicts.attempt_of(delivery)
            return PulledDelivery(self._consumer, Message(self._consumer.plan.decode(delivery), delivery, attempt))
        except (DecodeError, Retry, Reject) as error:
            await self._consumer.verdicts.carry_out(delivery, None, error)
            return None


def _plan(source: Queue | TopicSubscription, annotation: Any, prefetch: int) -> Plan:
    name = source.name if isinstance(source, Queue) or source.group is None else source.group
    own = isinstance(source, Queue) and source.is_dead_letters
    ephemeral = isinstance(source, TopicSubscription) and source.group is None
    return Plan(
        name=name,
        source=source,
        function=Pull.open,
        where=f"pull of {name}",
        signature=Signature(annotation, (), batch=False, asynchronous=True),
        concurrency=0,
        prefetch=prefetch,
        max_batch=1,
        max_wait=0.0,
        guarantee="at_most_once",
        dead_letters=None if own or ephemeral else source.dead_letters,
        retry=DEFAULT_RETRY,
        timeout=None,
        decode=codec.decoder(annotation, f"pull of {name}"),
    )

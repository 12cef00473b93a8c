"""Receiving and settling on one channel: what came, what is unsettled, and the acks that cover it."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from struct import Struct

from aiormq import spec
from aiormq.abc import AbstractChannel, DeliveredMessage

from unibus.driver import Delivery, Outcome
from unibus.errors import DriverError
from unibus_rabbitmq.connection import Connection
from unibus_rabbitmq.envelope import Received
from unibus_rabbitmq.faults import told
from unibus_rabbitmq.frames import METHOD, Reading

TOPICS = "unibus.topics"
FILL_WAIT, FILL_AT_MOST = 0.005, 1.0
"""Seconds between two looks at whether the broker has pushed all that it may, and for which that is waited for."""

_settle_frame = Struct(">BHIHHQBB").pack
_ACK, _NACK = 80, 120
_MULTIPLE, _REQUEUE = 1, 2


class Native:
    """The message as the broker handed it out, and the token to settle it by."""

    __slots__ = ("channel", "exchange", "raw_properties", "redelivered", "routing_key", "settled", "tag")

    def __init__(
        self, channel: ConsumeChannel, tag: int, redelivered: bool, exchange: str, routing_key: str, properties: bytes
    ) -> None:
        self.channel = channel
        self.tag = tag
        self.redelivered = redelivered
        self.exchange = exchange
        self.routing_key = routing_key
        self.raw_properties = properties
        self.settled = False

    @property
    def properties(self) -> spec.Basic.Properties:
        """All native properties and headers, in the client library's form."""
        properties = spec.Basic.Properties()
        flags = int.from_bytes(self.raw_properties[:2], "big")
        properties.unmarshal(flags, self.raw_properties[2:])
        return properties


class ConsumeChannel(Reading):
    """One channel with one consumer on it. `ready` is where its deliveries go, `events` hears of its end."""

    def __init__(
        self, connection: Connection, name: str, counted: bool, ready: deque[Delivery], events: ChannelEvents
    ) -> None:
        super().__init__()
        self.alive = True
        self._ready = ready
        self._connection = connection
        self._channel: AbstractChannel
        self._name = name
        self._counted = counted
        self._events = events
        self._tag = ""
        self._prefetch = 0
        self._withheld: list[tuple[list[int], Outcome]] | None = None
        """What is settled while a consumer ends: the broker is told afterwards."""
        self._open: dict[int, Delivery] = {}  # unsettled, in the order of their tags

    async def open(self) -> None:
        self._channel = await self._connection.channel(self)

    @property
    def library(self) -> AbstractChannel:
        """The client library's channel, to declare on."""
        return self._channel

    async def consume(self, queue: str, prefetch: int) -> None:
        """Returns once the broker has begun to hand out, `prefetch` unsettled ones at most."""
        async with told(f"consuming from {queue!r}"):
            await self._channel.basic_qos(prefetch_count=prefetch)
            tag = f"unibus-{uuid.uuid4().hex[:12]}"
            await self._channel.basic_consume(queue, _unused, consumer_tag=tag)
            self._tag, self._prefetch = tag, prefetch

    async def pause(self, ready: Callable[[], Awaitable[int]]) -> None:
        """Returns once no more comes. What is unsettled stays ours. ready: asks how many wait in the queue."""
        self._withheld = []
        try:
            await self._fill_up(ready)
            tag, self._tag = self._tag, ""
            if tag:
                async with told("ending a consumer"):
                    await self._channel.basic_cancel(tag)
        finally:
            withheld, self._withheld = self._withheld, None
            if self.alive and withheld:
                self._connection.write(b"".join(self._all_frames(withheld)))

    async def _fill_up(self, ready: Callable[[], Awaitable[int]]) -> None:
        """Settle nothing, and wait until the broker has pushed all that it may, or has no more; for a while.

        What a quorum queue is just pushing to a consumer that ends goes back unseen, and counts as delivered: to
        whoever counts deliveries it would look as if we had died with it.
        """
        with suppress(TimeoutError, DriverError):
            async with asyncio.timeout(FILL_AT_MOST):
                while self._tag and self.alive and self._unsettled < self._prefetch:
                    if not await ready():
                        return
                    await asyncio.sleep(FILL_WAIT)

    @property
    def _unsettled(self) -> int:
        """As the broker sees it."""
        return len(self._open) + sum(len(tags) for tags, _ in self._withheld or ())

    async def part(self) -> None:
        """End the consumer, and see to it that all that was settled reaches the queue.

        Of a quorum queue the broker's end of the channel passes on 32 acks or so, keeps the others until those are
        applied, and forgets them if the channel ends first. The end of a consumer is applied after those; then the
        others go, before the next answer.
        """
        tag, self._tag = self._tag, ""
        if not (tag and self.alive):
            return
        with suppress(DriverError):
            async with told("ending a consumer"):
                await self._channel.basic_cancel(tag)
                await self._channel.basic_qos(prefetch_count=self._prefetch)

    async def close(self) -> None:
        """What is unsettled goes back to the queue, after what was settled before."""
        self.alive = False
        await self._connection.close_channel(self._channel)

    @property
    def consumer(self) -> str:
        """The tag of the consumer that the broker should have; empty while there is none."""
        return self._tag

    @property
    def held(self) -> int:
        """Unsettled ones, ready or handed out."""
        return len(self._open)

    @property
    def handed_out(self) -> int:
        """Unsettled ones that somebody has in hand."""
        return len(self._open) - sum(delivery.token.channel is self for delivery in self._ready)

    def withdraw(self) -> list[Delivery]:
        """The channel is gone: take what came by it out of `ready`; returns what was handed out and is unsettled."""
        ready = [delivery for delivery in self._ready if delivery.token.channel is self]
        kept = [delivery for delivery in self._ready if delivery.token.channel is not self]
        self._ready.clear()
        self._ready.extend(kept)
        for delivery in ready:
            del self._open[delivery.token.tag]
        gone, self._open = list(self._open.values()), {}
        return gone

    # --- what the broker says -----------------------------------------------------------------------

    def delivered(
        self, tag: int, redelivered: bool, exchange: str, routing_key: str, properties: bytes, body: bytes
    ) -> None:
        if not self.alive:
            return  # it goes back with the channel, which is ending
        said = Received(properties)
        native = Native(self, tag, redelivered, exchange, routing_key, properties)
        address = said.topic or (routing_key if exchange == TOPICS else self._name)
        count = said.count + 1 if self._counted else None
        delivery = Delivery(
            None if said.no_body and not body else body, said.attributes, said.headers, said.key, said.message_id,
            address, said.sent_at, count, redelivered, native, native,
        )  # fmt: skip
        self._open[tag] = delivery
        self._ready.append(delivery)
        self._events.arrived()

    def cancelled(self) -> None:
        self._tag = ""
        self._events.consumer_ended(self)

    def closed(self, code: int, reason: str) -> None:
        self.alive = False
        self._events.channel_ended(self, f"the broker closed the channel: {code} {reason}")

    # --- settling -----------------------------------------------------------------------------------

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        """Those that are settled already are passed over."""
        still_open, tags = self._open, []
        for delivery in deliveries:
            native: Native = delivery.token
            if still_open.get(native.tag) is delivery:
                del still_open[native.tag]
                native.settled = True
                tags.append(native.tag)
        if tags:
            if self._withheld is None:
                self._connection.write(b"".join(self._frames(sorted(tags), outcome)))
            else:
                self._withheld.append((sorted(tags), outcome))

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Hand them out again ourselves, in their place.

        The broker would put what it gets back behind all else, or push it to us once more, behind what we
        hold: of a key the order would be lost. When the channel ends it puts all of it back in order.
        """
        again = [_handed_out_again(one) for one in deliveries if self._open.get(one.token.tag) is one]
        self._open.update((delivery.token.tag, delivery) for delivery in again)
        ours = [delivery for delivery in self._ready if delivery.token.channel is self]
        others = [delivery for delivery in self._ready if delivery.token.channel is not self]
        self._ready.clear()
        self._ready.extend(others)
        self._ready.extend(sorted(ours + again, key=lambda delivery: delivery.token.tag))
        self._events.arrived()

    def _all_frames(self, settled: list[tuple[list[int], Outcome]]) -> list[bytes]:
        """Those of several outcomes. An ack covers all before it, so what is no ack goes first, and one by one."""
        acked = [tag for tags, outcome in settled if outcome is Outcome.ACK for tag in tags]
        others = [(tag, outcome) for tags, outcome in settled if outcome is not Outcome.ACK for tag in tags]
        frames = [frame for tag, outcome in others for frame in self._frames([tag], outcome)]
        return frames + (self._frames(sorted(acked), Outcome.ACK) if acked else [])

    def _frames(self, tags: list[int], outcome: Outcome) -> list[bytes]:
        """One frame for all before the first that is unsettled, then one for each."""
        method = _ACK if outcome is Outcome.ACK else _NACK
        bits = _REQUEUE if outcome is Outcome.NACK else 0
        number = self._channel.number
        first_open = next(iter(self._open), None)
        covered = 0
        if first_open is None:
            covered = len(tags)
        elif tags[0] < first_open:
            covered = sum(tag < first_open for tag in tags)
        frames = []
        if covered > 1:
            frames.append(_settle_frame(METHOD, number, 13, 60, method, tags[covered - 1], bits | _MULTIPLE, 0xCE))
            tags = tags[covered:]
        frames += [_settle_frame(METHOD, number, 13, 60, method, tag, bits, 0xCE) for tag in tags]
        return frames


class ChannelEvents:
    """What a channel tells its subscription; called on the loop, and must not raise."""

    def arrived(self) -> None: ...

    def consumer_ended(self, channel: ConsumeChannel) -> None: ...

    def channel_ended(self, channel: ConsumeChannel, reason: str) -> None: ...


def _handed_out_again(known: Delivery) -> Delivery:
    """Another one: the core knows deliveries by identity, and is done with the first."""
    return Delivery(
        known.body, known.attributes, known.headers, known.key, known.message_id, known.address, known.sent_at,
        known.deliveries, True, known.token, known.native,
    )  # fmt: skip


async def _unused(message: DeliveredMessage) -> None:
    """Deliveries are taken out of the stream before the library would call this."""

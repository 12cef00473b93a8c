"""Producers write to queues, publishers to topics. Both take one message at a time or many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from unibus.address import Queue, Topic
from unibus.codec import Encoder
from unibus.driver import Outbound
from unibus.errors import BatchError, EncodeError, MessageTooLarge, UnsupportedCapability
from unibus.outcome import seconds
from unibus.sender import Sender

if TYPE_CHECKING:
    from unibus.bus import Bus
    from unibus.session import Session

T = TypeVar("T")


class _Writer(Generic[T]):
    """What a producer and a publisher have in common: encoding, the sender at hand, chunks."""

    def __init__(self, bus: Bus, address: str | Queue | Topic, annotation: Any, declared: Queue | Topic | None) -> None:
        self._bus = bus
        self._address = address
        self._name = address if isinstance(address, str) else address.name
        self._encoder = Encoder(annotation)
        self._session: Session | None = None
        self._sender: Sender | None = None
        self.declared = declared
        """The declaration, where the address was given as one and not by name alone."""

    async def _ready(self) -> tuple[Session, Sender]:
        """The open session and the sender; at first use the address is verified. Raises NotOpen."""
        session = self._bus.session
        if session is not self._session or self._sender is None:
            if self.declared is not None:
                session.addresses.declare(self.declared, f"a producer or publisher of {self.declared.name!r}")
            self._sender = await session.sender_at_first_use(self._address)
            self._session = session
        return session, self._sender

    async def _send_many(
        self, items: Iterable[T] | AsyncIterable[T], make: Callable[[T], Outbound], sender: Sender, size: int
    ) -> int:
        flight = _Flight(sender)
        try:
            if isinstance(items, AsyncIterable):
                async for item in items:
                    if flight.board(make, item) >= size:
                        await flight.depart()
            else:
                for item in items:
                    if flight.board(make, item) >= size:
                        await flight.depart()
        finally:
            await flight.depart()
            await flight.land()
        if flight.errors:
            raise BatchError(flight.errors, flight.count)
        return flight.count


class _Flight:
    """Chunks of `send_many`: one is filled while another travels. What cannot be encoded stays behind, named."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._chunk: list[Outbound] = []
        self._first = 0
        self._flying: tuple[Sequence[int], asyncio.Future[dict[int, Exception]]] | None = None
        self.count = 0
        self.errors: dict[int, Exception] = {}

    def board(self, make: Callable[[T], Outbound], item: T) -> int:
        """Returns how many are on board."""
        try:
            self._chunk.append(make(item))
        except (EncodeError, MessageTooLarge) as error:
            self.errors[self.count] = error
        self.count += 1
        return len(self._chunk)

    async def depart(self) -> None:
        """Send what is filled, and wait for the chunk before it."""
        if not self._chunk:
            return
        future = self._sender.send_chunk(self._chunk)
        indices: Sequence[int] = range(self._first, self.count)
        if len(indices) > len(self._chunk):
            indices = [index for index in indices if index not in self.errors]
        self._chunk, self._first = [], self.count
        before, self._flying = self._flying, (indices, future)
        await self._arrived(before)

    async def land(self) -> None:
        flying, self._flying = self._flying, None
        await self._arrived(flying)

    async def _arrived(self, flying: tuple[Sequence[int], asyncio.Future[dict[int, Exception]]] | None) -> None:
        if flying is not None:
            indices, future = flying
            for index, error in (await future).items():
                self.errors[indices[index]] = error


class Producer(_Writer[T]):
    """Sends to one queue. Made by `Bus.producer`; usable while the bus is open."""

    def __init__(self, bus: Bus, queue: str | Queue, annotation: Any, delay: float) -> None:
        super().__init__(bus, queue, annotation, None if isinstance(queue, str) else queue)
        self.delay = delay
        """The longest delay that this producer said it would ask for, in seconds; 0 if it said none."""

    @property
    def queue(self) -> str:
        return self._name

    async def send(
        self,
        data: T,
        *,
        key: str | None = None,
        delay: float | timedelta = 0.0,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002 - the word that a reader expects
        correlation_id: str | None = None,
        priority: int | None = None,
    ) -> str:
        """Return the message's id once the broker has confirmed it.

        key: keeps messages of one key in order on an ordered queue; elsewhere a hint. delay:
        seconds before it can be received. id: default a new time-ordered UUID; give your own to
        make a repeated send recognisable. correlation_id: default the one being handled.
        Raises EncodeError, MessageTooLarge, UnsupportedCapability (nothing left), Rejected,
        DestinationNotFound (not stored), OutcomeUnknown (perhaps stored), NotSent, NotOpen.
        """
        session, sender = self._at_hand or await self._ready()
        wait = seconds(delay, "send(delay=…)") if delay else 0.0
        if wait:
            self._check_delay(session, wait)
        outbound = session.envelopes.outbound(self._encoder, data, key, headers, id, correlation_id)
        outbound.delay = wait
        outbound.priority = priority
        await sender.send(outbound)
        return outbound.message_id

    async def send_many(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        key: Callable[[T], str | None] | None = None,
        delay: float | timedelta = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Send all, in order where that matters; returns how many once all are confirmed.

        At most two batches are in memory. Raises BatchError with indices into `items`, for what
        cannot be encoded, too: all others are confirmed.
        """
        session, sender = await self._ready()
        wait = seconds(delay, "send_many(delay=…)")
        if wait:
            self._check_delay(session, wait)
        encoder, make_outbound = self._encoder, session.envelopes.outbound

        def make(item: T) -> Outbound:
            outbound = make_outbound(encoder, item, key(item) if key is not None else None, headers, None, None)
            outbound.delay = wait
            return outbound

        return await self._send_many(items, make, sender, session.chunk)

    @property
    def _at_hand(self) -> tuple[Session, Sender] | None:
        session = self._bus.session
        return (session, self._sender) if session is self._session and self._sender is not None else None

    def _check_delay(self, session: Session, wait: float) -> None:
        if self.delay and wait > self.delay:
            raise UnsupportedCapability(
                f"delay={wait:g} is over the {self.delay:g} s that the producer of {self.queue} said"
            )
        delay = session.capabilities.delay
        if delay.support == "none":
            raise UnsupportedCapability(f"delay={wait:g}: this broker cannot delay messages")
        if delay.max is not None and wait > delay.max:
            raise UnsupportedCapability(f"delay={wait:g}: this broker delays {delay.max:g} s at most")
        if session.addresses.queue(self._name).ordering == "key":
            raise UnsupportedCapability(
                f"delay={wait:g}: queue {self.queue} is ordered, and a delay would break its order"
            )


class Publisher(_Writer[T]):
    """Publishes to one topic. Made by `Bus.publisher`; usable while the bus is open."""

    def __init__(self, bus: Bus, topic: Topic, annotation: Any, *, named: bool) -> None:
        super().__init__(bus, topic, annotation, None if named else topic)

    @property
    def topic(self) -> str:
        return self._name

    async def publish(
        self,
        data: T,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002 - the word that a reader expects
        correlation_id: str | None = None,
    ) -> str:
        """Return the message's id once the broker has confirmed it; that nobody subscribes is no error.

        Parameters and errors as for `Producer.send`; publishing has no delay.
        """
        session, sender = await self._ready()
        outbound = session.envelopes.outbound(self._encoder, data, key, headers, id, correlation_id)
        outbound.topic = self.topic
        await sender.send(outbound)
        return outbound.message_id

    async def publish_many(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        key: Callable[[T], str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """As `Producer.send_many`."""
        session, sender = await self._ready()
        topic = self.topic

        def make(item: T) -> Outbound:
            outbound = session.envelopes.outbound(
                self._encoder, item, key(item) if key is not None else None, headers, None, None
            )
            outbound.topic = topic
            return outbound

        return await self._send_many(items, make, sender, session.chunk)

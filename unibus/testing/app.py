"""Run a bus in a test: on memory, with a clock that you move, and all that it sent at hand.

async with app(bus) as t:
    await t.send("orders", Order(...))
    await t.settled()                       # delays and retries pass without waiting
    assert t.sent("order.created")[0].json()["id"] == 1
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import TypeAdapter
from pydantic_core import from_json

from unibus import registry
from unibus.address import Queue, TopicSubscription
from unibus.bus import Bus
from unibus.consumer import Consumer
from unibus.dead_letters import DeadLetter
from unibus.driver import (
    Address,
    Capabilities,
    Clock,
    Delivery,
    Depth,
    Driver,
    DriverEvent,
    Outbound,
    Source,
    Subscription,
    Topic,
    Topology,
    Url,
)  # fmt: skip
from unibus.message import Message
from unibus.testing.clock import MovableClock

T = TypeVar("T")

PATIENCE = 0.05
"""Real seconds that `settled` gives a handler that waits for something real before it moves the clock."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that the bus sent and the broker confirmed. address: the queue, topic or group's queue."""

    address: str
    body: bytes | None
    attributes: Mapping[str, str]
    headers: Mapping[str, str]
    key: str | None
    message_id: str
    delay: float

    def json(self) -> Any:
        """The payload as plain data."""
        return None if self.body is None else from_json(self.body)

    def data(self, type: type[T]) -> T:  # noqa: A002 - as the producer's parameter
        """The payload as the given type."""
        return TypeAdapter(type).validate_json(self.body or b"null")

    @property
    def dead_letter(self) -> DeadLetter | None:
        """Why it is a dead letter, if it is one."""
        return DeadLetter.from_attributes(self.attributes)


class _Recorder:
    """A driver that notes what is sent, and creates what would only be verified: other programs' queues."""

    def __init__(self, driver: Driver, sent: list[Sent]) -> None:
        self._driver = driver
        self._sent = sent

    @property
    def capabilities(self) -> Capabilities:
        return self._driver.capabilities

    async def open(self) -> None:
        await self._driver.open()

    async def declare(self, topology: Topology) -> None:
        await self._driver.declare(Topology(create=(*topology.create, *topology.verify)))

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        await self._driver.send(address, messages)
        for message in messages:
            name = message.topic or address.name if isinstance(address, Topic) else address.name
            self._sent.append(
                Sent(
                    name, message.body, dict(message.attributes), dict(message.headers), message.key,
                    message.message_id, message.delay,
                )
            )  # fmt: skip

    async def subscribe(self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]) -> Subscription:
        return await self._driver.subscribe(source, prefetch=prefetch, notify=notify)

    async def depth(self, source: Source) -> Depth:
        return await self._driver.depth(source)

    async def close(self) -> None:
        await self._driver.close()


@dataclass(slots=True)
class App:
    """A running bus under test."""

    bus: Bus
    clock: MovableClock
    all_sent: list[Sent] = field(default_factory=list)

    async def send(self, queue: str, data: Any, **options: Any) -> str:
        """As `bus.producer(queue).send(data, …)`."""
        return await self.bus.producer(queue).send(data, **options)

    async def publish(self, topic: str, data: Any, **options: Any) -> str:
        """As `bus.publisher(topic).publish(data, …)`."""
        return await self.bus.publisher(topic).publish(data, **options)

    def sent(self, address: str) -> list[Sent]:
        """What went to a queue or topic, in order, by the test as well as by handlers, re-sends included."""
        return [sent for sent in self.all_sent if sent.address == address]

    def dead_letters(self, source: str) -> list[Sent]:
        """The dead letters of a queue or a group, wherever they went; `.dead_letter` says why."""
        found = []
        for sent in self.all_sent:
            record = sent.dead_letter
            if record is not None and source in (record.source, record.group):
                found.append(sent)
        return found

    async def settled(self, within: float = 24 * 3600.0) -> None:
        """Return once every message is handled for good, moving the clock over delays and retries.

        within: seconds on the moved clock, default a day. Raises TimeoutError that names what is left.
        """
        until = self.clock.monotonic() + within
        stalled_since = time.monotonic()
        progress: object = None
        while (left := await self._outstanding()) != "":
            if (now := self._progress()) != progress:
                progress, stalled_since = now, time.monotonic()
            if self._running() and time.monotonic() - stalled_since < PATIENCE:
                await asyncio.sleep(0.001)
                continue
            due = self.clock.next_due()
            if due is None or due > until:
                raise TimeoutError(f"not settled within {within:g} s: {left}")
            await self.clock.advance_to_next()

    @property
    def _consumers(self) -> list[Consumer]:
        return self.bus.session.consumers

    def _running(self) -> bool:
        return any(lane.held for consumer in self._consumers for lane in consumer.lanes)

    def _progress(self) -> object:
        return [(consumer.stats.received, len(consumer.held)) for consumer in self._consumers], len(self.all_sent)

    async def _outstanding(self) -> str:
        await self.clock.advance(0)
        if self.bus.session.unsent:
            return f"{self.bus.session.unsent} messages being sent"
        for consumer in self._consumers:
            source, name = consumer.plan.source, consumer.plan.name
            if consumer.held:
                return f"{len(consumer.held)} messages in the hands of {name}"
            if isinstance(source, Queue) or (isinstance(source, TopicSubscription) and source.group is not None):
                depth = await self.bus.driver.depth(source)
                if depth.ready or depth.in_flight or depth.delayed:
                    return f"{name}: {depth}"
        return ""


@asynccontextmanager
async def app(bus: Bus, url: str = "memory://") -> AsyncIterator[App]:
    """Run the bus, consuming, on a memory broker of its own and a clock that you move.

    url: a memory URL with options, to test against a weaker broker (`memory://?delay=off`).
    """
    sent: list[Sent] = []

    def connect(url: Url, clock: Clock) -> Driver:
        return _Recorder(registry.connect(url, clock), sent)

    clock = MovableClock()
    before = bus.configure(url=url, clock=clock, connect=connect)
    try:
        await bus.__aenter__()
        consuming = bus.consuming()
        try:
            await consuming.__aenter__()
            try:
                yield App(bus, clock, sent)
            finally:
                await _while_time_passes(clock, consuming.__aexit__(None, None, None))
        finally:
            await _while_time_passes(clock, bus.__aexit__(None, None, None))
    finally:
        bus.restore(before)


async def _while_time_passes(clock: MovableClock, work: Any) -> None:
    """Grace periods are on the moved clock: a handler that hangs at the end must not hang the test."""
    task = asyncio.ensure_future(work)
    started = time.monotonic()
    while not task.done():
        await asyncio.sleep(0)
        if time.monotonic() - started > PATIENCE:
            await clock.advance_to_next()
            await asyncio.sleep(0.001)
    await task


def message(
    data: T,
    *,
    id: str = "00000000-0000-7000-8000-000000000000",  # noqa: A002
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    attributes: Mapping[str, str] | None = None,
    address: str = "test",
    attempt: int = 1,
) -> Message[T]:
    """A Message as a handler gets it, for calling the handler as the plain function that it is."""
    delivery = Delivery(None, attributes or {}, headers or {}, key, id, address, None, None, False, None)
    return Message(data, delivery, attempt)

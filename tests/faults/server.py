"""What a scenario has to know of a server, as data and as the few things that only its own tools can do."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from tests.brokers import Broker, broker
from unibus import Bus, Queue
from unibus.driver import Capabilities, Outcome, Topology
from unibus.testing.proxy import FaultProxy


class Tools(Protocol):
    """What no driver offers, since no program should do it."""

    async def delete(self, url: str, queue: str) -> int:
        """Delete a queue; returns how many messages lay in it, delivered to nobody."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is promised. Times are seconds.

    settle: before a queue that was just declared survives a kill of the broker. recovery: from when the broker
    serves again to the first success. publish: what one attempt to send may take. redelivery: from the death of a
    process to the first of its messages at another one. told: from a look at the undeliverable to the next.
    silence: after how long a consumer that says nothing loses what it holds; None: it keeps it.
    in_transit: how many messages the delays may repeat when the broker is killed. keeps_acks: whether what was acked
    stays so then; else all that was handled by then may come again. uncommitted: what is acked in so many seconds
    may be known to the consumer alone, and comes again if the fault hits just then. late: for how long the broker may
    hold up delayed messages that were due while it started. tells_all: whether each consumer of a queue hears that it
    was deleted; else the first to notice makes it anew, and it looks the same to the others.
    """

    settle: float = 0.0
    recovery: float = 10.0
    publish: float = 10.0
    redelivery: float = 10.0
    told: float = 60.0
    in_transit: int = 0
    silence: float | None = None
    keeps_acks: bool = True
    uncommitted: float = 0.0
    late: float = 0.0
    tells_all: bool = True


@dataclass(frozen=True, slots=True)
class Server:
    """name: in the catalogue of brokers. undeliverable: where delayed messages go whose queue is gone.

    written: how its URL is made of the one in the catalogue. options: what follows it, from the question mark on.
    doors: how a proxy stands before it, once for publishers and once for consumers: behind which of its ports,
    counted from its first, and in front at which, where that is not free. watch: looks at a queue by its URL and name
    as long as a run lasts; what it finds to be wrong is added to a list.
    """

    name: str
    tools: Tools
    bounds: Bounds = field(default_factory=Bounds)
    undeliverable: Queue | None = None
    options: str = ""
    doors: tuple[tuple[int, int | None], ...] = ((0, None), (0, None))
    watch: Callable[[str, str], AbstractAsyncContextManager[Sequence[str]]] | None = None
    written: str = "{}"

    def url(self, broker: Broker, proxy: FaultProxy | None = None) -> str:
        """By way of a proxy, if one is given."""
        return self.written.format(broker.url if proxy is None else proxy.url(broker.url)) + self.options

    def proxy(self, broker: Broker, door: int = 0) -> FaultProxy:
        behind, front = self.doors[door]
        return FaultProxy(broker.host, broker.port + behind, listen=0 if front is None else broker.port + front)


class Ground:
    """A running server, with queues that were declared early enough to survive its being killed."""

    MANY = 16

    def __init__(self, server: Server) -> None:
        self.server = server
        self.broker: Broker = broker(server.name)
        self.url = server.url(self.broker)
        self.capabilities: Capabilities
        self._free: list[str] = []
        self._declared_at = 0.0

    async def queue(self) -> str:
        """One that nobody has used yet."""
        if not self._free:
            await self._declare()
        return self._free.pop()

    async def rested(self) -> None:
        """Return when the broker may be killed."""
        await asyncio.sleep(max(0.0, self._declared_at + self.server.bounds.settle - time.monotonic()))

    async def _declare(self) -> None:
        stem = f"faults.{uuid.uuid4().hex[:6]}"
        queues = [Queue(f"{stem}.{number}") for number in range(self.MANY)]
        async with Bus(self.url) as bus:
            self.capabilities = bus.driver.capabilities
            for queue in queues:
                await bus.driver.declare(Topology(create=(queue, queue.dead_letters)))
            if self.capabilities.delay.support != "none":
                # What delays is declared by the first who delays, and needs its rest, too.
                await bus.producer(queues[0].name).send("first", delay=0.1)
                while not await taken(bus, queues[0]):
                    pass
        self._free = [queue.name for queue in reversed(queues)]
        self._declared_at = time.monotonic()


async def taken(bus: Bus, queue: Queue) -> list[str]:
    """The ids of all that lies in a queue, which is empty then."""
    ids: list[str] = []
    subscription = await bus.driver.subscribe(queue, prefetch=100, notify=lambda event: None)
    try:
        while batch := await subscription.receive(100, 1.0):
            ids += [delivery.message_id for delivery in batch]
            await subscription.settle(batch, Outcome.ACK)
    finally:
        await subscription.close()
    return ids

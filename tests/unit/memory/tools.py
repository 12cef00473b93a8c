"""What the tests of the memory driver have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from unibus.driver import (
    Clock,
    Delivery,
    DriverEvent,
    Lost,
    Outbound,
    Queue,
    Revoking,
    TopicSubscription,
    Topology,
    Url,
)
from unibus.memory import MemoryDriver
from unibus.memory.subscription import MemorySubscription
from unibus.testing.clock import MovableClock

QUEUE = Queue("orders")
GROUP = TopicSubscription(("order.*",), group="email")
MODELS = ("memory://", "memory://?model=log&partitions=1")


def out(
    name: object,
    key: str | None = None,
    delay: float = 0.0,
    topic: str | None = None,
    body: bytes | None = b"x",
) -> Outbound:
    return Outbound(body, {"id": str(name)}, {"h": "1"}, key, str(name), delay=delay, topic=topic)


def outs(*names: object, key: str | None = None) -> list[Outbound]:
    return [out(name, key) for name in names]


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.message_id for delivery in deliveries]


def create(*addresses: object) -> Topology:
    return Topology(create=tuple(addresses))  # type: ignore[arg-type]


class Events(list[DriverEvent]):
    """A `notify` that remembers."""

    def __call__(self, event: DriverEvent) -> None:
        self.append(event)

    @property
    def lost(self) -> list[str]:
        return [name for event in self if isinstance(event, Lost) for name in ids(event.deliveries)]

    @property
    def revoking(self) -> list[str]:
        return [name for event in self if isinstance(event, Revoking) for name in ids(event.deliveries)]


class World:
    """Drivers of one test, on one clock."""

    def __init__(self, clock: MovableClock) -> None:
        self.clock = clock
        self.drivers: list[MemoryDriver] = []

    async def driver(self, url: str = "memory://", clock: Clock | None = None) -> MemoryDriver:
        driver = MemoryDriver(Url(url), clock or self.clock)
        await driver.open()
        self.drivers.append(driver)
        return driver

    async def close(self) -> None:
        for driver in self.drivers:
            await driver.close()
        await self.clock.quiet()
        assert self.clock.next_due() is None, "a timer outlived its broker"
        assert len(asyncio.all_tasks()) == 1, "a task outlived its broker"


async def now(subscription: MemorySubscription, limit: int = 100) -> list[str]:
    """The ids of what can be had without waiting."""
    return ids(await subscription.receive(limit, 0))

"""A memory driver whose counts of deliveries, settles and sends are the test's to decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unibus import Bus, registry
from unibus.driver import Address, Clock, Delivery, Driver, DriverEvent, Outbound, Outcome, Source, Subscription, Url
from unibus.errors import ConnectionLost, DriverError
from unibus.testing import App, MovableClock


class Recount:
    """A memory driver whose deliveries get the counts that a test gives their messages, and whose settles are noted."""

    def __init__(self, driver: Driver, counts: dict[str, int]) -> None:
        self._driver = driver
        self._counts = counts
        self.settled: list[tuple[str, Outcome]] = []
        self.most_held = 0
        self.fail_sends = 0
        self.count_once_sent: dict[str, int] = {}
        self.fail_settles: list[DriverError | BaseException] = []
        self.notify: Callable[[DriverEvent], None] = lambda event: None
        self.subscription: Any = None

    @property
    def capabilities(self) -> Any:
        return self._driver.capabilities

    async def open(self) -> None:
        await self._driver.open()

    async def declare(self, topology: Any) -> None:
        await self._driver.declare(topology)

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        if self.fail_sends:
            self.fail_sends -= 1
            raise ConnectionLost("cut")
        for message in messages:
            self._counts.pop(message.message_id, None)  # stored anew, it is counted anew
            if message.message_id in self.count_once_sent:
                self._counts[message.message_id] = self.count_once_sent.pop(message.message_id)
        await self._driver.send(address, messages)

    async def subscribe(self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]) -> Subscription:
        self.notify = notify
        subscription: Any = await self._driver.subscribe(source, prefetch=prefetch, notify=notify)
        receive, settle = subscription.receive, subscription.settle

        async def recounted(max_messages: int, max_wait: float) -> Sequence[Delivery]:
            batch: Sequence[Delivery] = await receive(max_messages, max_wait)
            for delivery in batch:
                delivery.deliveries = self._counts.get(delivery.message_id, delivery.deliveries)
            return batch

        async def noted(deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
            if self.fail_settles:
                raise self.fail_settles.pop(0)
            self.settled += [(delivery.message_id, outcome) for delivery in deliveries]
            await settle(deliveries, outcome, delay=delay)

        subscription.receive, subscription.settle = recounted, noted
        self.subscription = subscription
        return subscription  # type: ignore[no-any-return]

    async def depth(self, source: Source) -> Any:
        return await self._driver.depth(source)

    async def close(self) -> None:
        await self._driver.close()


def recounting(counts: dict[str, int], made: list[Recount]) -> Callable[[Url, Clock], Driver]:
    def connect(url: Url, clock: Clock) -> Driver:
        driver = Recount(registry.connect(url, clock), counts)
        made.append(driver)
        return driver

    return connect


async def opened(bus: Bus, counts: dict[str, int]) -> tuple[MovableClock, Recount]:
    clock, made = MovableClock(), list[Recount]()
    bus.configure(url="memory://", clock=clock, connect=recounting(counts, made))
    await bus.__aenter__()
    return clock, made[0]


async def settled(bus: Bus, clock: MovableClock) -> None:
    await App(bus, clock).settled()

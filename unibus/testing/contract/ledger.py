"""What was handled, and its comparison with what was sent: by sets, never by counts alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Sized
from typing import Any

from unibus.bus import Bus
from unibus.driver import Queue
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.retry import retry
from unibus.testing.harness import Harness

again_at_once = retry(on=Exception, attempts=5, backoff=constant(0))
"""A retry that asks nothing of the broker: for the handlers of cases that are not about retries."""

once = retry(on=Exception, attempts=1)


def difference(got: Iterable[Hashable], expected: Iterable[Hashable], *, twice: bool = False) -> str:
    """Lost, unexpected and (unless `twice` is fine) duplicated ones; empty if there are none."""
    found, wanted = Counter(got), Counter(expected)
    lost = sorted(map(str, wanted.keys() - found.keys()))
    unexpected = sorted(map(str, found.keys() - wanted.keys()))
    duplicated = [] if twice else sorted(str(one) for one, count in found.items() if count > max(wanted[one], 1))
    parts = [("lost", lost), ("unexpected", unexpected), ("duplicated", duplicated)]
    return "; ".join(f"{len(ones)} {what}: {', '.join(ones[:10])}" for what, ones in parts if ones)


def reaches(found: Sized, least: int) -> Callable[[], bool]:
    """A condition for `Harness.until`."""
    return lambda: len(found) >= least


class Ledger:
    """Notes messages as they are handled."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self.messages: list[Message[Any]] = []

    def add(self, message: Message[Any]) -> None:
        self.messages.append(message)

    @property
    def data(self) -> list[Any]:
        return [message.data for message in self.messages]

    def consume(self, bus: Bus, queue: str | Queue, **options: Any) -> None:
        """Register a handler of a queue that notes what it gets."""
        bus.consumer(queue, guarantee=self._harness.queue_guarantee, **options)(self.handler())

    def subscribe(self, bus: Bus, *patterns: str, **options: Any) -> None:
        """Register a subscriber that notes what it gets."""
        bus.subscriber(*patterns, guarantee=self._harness.topic_guarantee, **options)(self.handler())

    def handler(self) -> Callable[[Message[Any]], Any]:
        @again_at_once
        async def note(message: Message[Any]) -> None:
            self.add(message)

        return note

    async def has(self, expected: Collection[Hashable], *, twice: bool = False, within: float = 600.0) -> None:
        """Return once all are here, and nothing else is after a silence; else tell the difference."""
        wanted = set(expected)
        try:
            await self._harness.until(lambda: wanted <= set(self.data), "all of them", within)
        except AssertionError:
            raise AssertionError(difference(self.data, expected, twice=twice)) from None
        await self._harness.silent()
        self.is_exactly(expected, twice=twice)

    def is_exactly(self, expected: Collection[Hashable], *, twice: bool = False) -> None:
        problem = difference(self.data, expected, twice=twice)
        assert not problem, problem


async def drained(harness: Harness, queue: str | Queue, count: int, *, silent: bool = True) -> list[Message[bytes]]:
    """Take `count` messages off a queue by another bus, and look that there is no further one."""
    bus, taken = harness.bus(), list[Message[bytes]]()
    async with harness.connected(bus):
        pulling = bus.pull(queue=queue, type=bytes)
        deliveries = await harness.passing(pulling.__aenter__())
        try:
            while len(taken) < count:
                delivery = await harness.passing(deliveries.next(harness.patience))
                assert delivery is not None, f"{len(taken)} of {count} messages came from {queue}"
                taken.append(delivery.message)
                await delivery.ack()
            if silent:
                further = await harness.passing(deliveries.next(harness.silence))
                assert further is None, f"{queue} has more than {count} messages: {further.message}"
        finally:
            await harness.passing(pulling.__aexit__(None, None, None))
    return taken

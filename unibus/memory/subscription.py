"""What the subscriptions of both models share: waiting, and what remains of one that has ended."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from unibus.driver import Clock, Delivery, DriverEvent, Outcome, Source
from unibus.errors import ConnectionLost, NotOpen, SettlementLost, UnsupportedCapability
from unibus.memory.options import Options

Notify = Callable[[DriverEvent], None]

LOST = "lost"
"""The token of a delivery that was taken from its holder."""


def again(reason: Exception) -> Exception:
    """The reason, to be raised: one exception raised many times would collect every traceback."""
    return type(reason)(*reason.args)


class MemorySubscription(ABC):
    """A live source of deliveries; `_take` is what the models differ in."""

    def __init__(self, source: Source, prefetch: int, notify: Notify, clock: Clock, options: Options) -> None:
        self.source = source
        self.notify = notify
        self.on_end: Callable[[], None] | None = None
        self._prefetch = prefetch
        self._clock = clock
        self._options = options
        self._waiter: asyncio.Future[None] | None = None
        self._ended: Exception | None = None

    @property
    def ended(self) -> bool:
        return self._ended is not None

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Delivery]:
        # Others have their turn first, as they have while a network answers. Nothing is awaited
        # between taking messages and returning them, so that a cancellation loses none.
        await asyncio.sleep(0)
        self._check_live()
        limit = min(max_messages, self._options.batch)
        deadline = self._clock.monotonic() + max_wait
        while True:
            batch = self._take(limit)
            if batch or self._clock.monotonic() >= deadline:
                return batch
            await self._wait(deadline)
            if self._ended is not None:
                if isinstance(self._ended, ConnectionLost):
                    raise again(self._ended)
                return ()  # closed while it waited

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        if isinstance(self._ended, ConnectionLost):
            raise again(self._ended)
        if len(deliveries) > self._options.batch:
            raise ValueError(f"{len(deliveries)} deliveries in one call, the limit is {self._options.batch}")
        if delay and (outcome is not Outcome.NACK or self._options.nack_delay == "off"):
            raise UnsupportedCapability(
                f"settling {outcome.value} with a delay of {delay} s: "
                "only a NACK takes one, and only with nack_delay=on"
            )
        stale = self._settle(deliveries, outcome, delay)
        if stale:
            raise SettlementLost(
                f"{stale} of {len(deliveries)} deliveries of {self.source} were no longer held here; "
                "they will be, or were, delivered again",
                count=stale,
            )

    async def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        if isinstance(self._ended, ConnectionLost):
            raise again(self._ended)
        self._extend(deliveries, seconds)

    async def close(self) -> None:
        if self._ended is None:
            self.end(NotOpen(f"the subscription to {self.source} is closed"))

    def end(self, reason: Exception) -> None:
        """Give back what is unsettled and stay ended; ConnectionLost is what later calls raise."""
        if self._ended is None:
            self._ended = reason
            self._leave()
            if self.on_end is not None:
                self.on_end()
            self.wake()

    def wake(self) -> None:
        """A pending receive looks again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @abstractmethod
    def _take(self, limit: int) -> list[Delivery]:
        """What may be handed out now."""

    @abstractmethod
    def _settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float) -> int:
        """Settle, and count those that were lost."""

    @abstractmethod
    def _extend(self, deliveries: Sequence[Delivery], seconds: float) -> None: ...

    @abstractmethod
    def _leave(self) -> None:
        """Give back what is unsettled and leave the source."""

    @abstractmethod
    def _waits(self, yes: bool) -> None:
        """A receive begins or ends to wait."""

    @abstractmethod
    def _pass_on(self) -> None:
        """A receive was cancelled, perhaps after it was woken: another must look in its place."""

    def _check_live(self) -> None:
        if self._ended is not None:
            raise again(self._ended)
        if self._waiter is not None:
            raise RuntimeError(f"the subscription to {self.source} has a receive under way; one at a time")

    async def _wait(self, deadline: float) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(deadline - self._clock.monotonic(), self.wake)
        self._waits(True)
        woken = False
        try:
            await self._waiter
            woken = True
        finally:
            timer.cancel()
            self._waiter = None
            self._waits(False)
            if not woken:
                self._pass_on()

"""Letters in hand: received, their leases renewed, and given back at the end unless they were settled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from unibus.driver import Delivery, DriverEvent, LeaseExtender, Lost, Outcome, Queue, Subscription
from unibus.errors import SettlementLost, UnsupportedCapability
from unibus.leases import Renewal
from unibus.session import Session

GIVEN_BACK = 2.0
"""Seconds within which a broker counts what it got back; somebody else may have it by then."""

logger = logging.getLogger("unibus.dead_letters")


class Hand:
    """Of one run. held: what is unsettled and ours, in the order of arrival. lost: how many were taken away, and come
    again."""

    def __init__(self, session: Session, queue: Queue, prefetch: int) -> None:
        self.held: dict[Delivery, None] = {}
        self.lost = 0
        self._driver = session.driver
        self._clock = session.clock
        self._queue = queue
        self._prefetch = prefetch
        self._subscription: Subscription
        self._renewal: Renewal | None = None

    async def __aenter__(self) -> Self:
        """Raises UnsupportedCapability where what is received cannot be given back."""
        if self._driver.capabilities.queue_guarantee == "at_most_once":
            raise UnsupportedCapability(
                f"{self._queue}: this broker delivers at most once, so what is received could not be given back"
            )
        self._subscription = await self._driver.subscribe(self._queue, prefetch=self._prefetch, notify=self._on_event)
        lease = self._driver.capabilities.lease
        if lease is not None and isinstance(self._subscription, LeaseExtender):
            self._renewal = Renewal(self._subscription, self.held, lease, self._clock)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._renewal is not None:
            self._renewal.stop()
        await self._subscription.close()
        if self.held and error is None:
            await self._given_back()

    async def receive(self, most: int, wait: float) -> Sequence[Delivery]:
        batch = await self._subscription.receive(min(most, self._driver.capabilities.receive.messages), wait)
        self.held.update(dict.fromkeys(batch))
        return batch

    async def ack(self, deliveries: Sequence[Delivery]) -> int:
        """Off the queue. Returns how many were not ours any more: those come again, too."""
        lost, most = 0, self._driver.capabilities.settle.messages
        for start in range(0, len(deliveries), most):
            some = deliveries[start : start + most]
            try:
                await self._subscription.settle(some, Outcome.ACK)
            except SettlementLost as error:
                lost += error.count
                told = sum(delivery not in self.held for delivery in some)
                self.lost += max(error.count - told, 0)
            for delivery in some:
                self.held.pop(delivery, None)
        return lost

    async def _given_back(self) -> None:
        """Return once the broker counts what we held among what lies there, so that whoever looks next finds it."""
        until = self._clock.monotonic() + GIVEN_BACK
        while self._clock.monotonic() < until:
            depth = await self._driver.depth(self._queue)
            if depth.ready + (depth.in_flight or 0) >= len(self.held):
                return
            await self._clock.sleep(0.02)

    def _on_event(self, event: DriverEvent) -> None:
        if isinstance(event, Lost):
            logger.debug("%d letters of %s were taken away", len(event.deliveries), self._queue)
            for delivery in event.deliveries:
                if delivery in self.held:
                    del self.held[delivery]
                    self.lost += 1

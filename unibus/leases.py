"""Leases: everything that a consumer holds unsettled is renewed, in one call per third of a lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from unibus.cancellation import asked_to_end
from unibus.driver import Clock, Delivery, LeaseExtender, Timer

logger = logging.getLogger("unibus.consumer")


class Renewal:
    """Runs until stopped; lease is seconds."""

    def __init__(self, subscription: LeaseExtender, held: Collection[Delivery], lease: float, clock: Clock) -> None:
        self._subscription = subscription
        self._held = held
        self._lease = lease
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._timer: Timer = clock.call_later(lease / 3, self._start)

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        try:
            if self._held:
                await self._subscription.extend(list(self._held), self._lease)
        except (Exception, asyncio.CancelledError) as error:
            if asked_to_end():
                raise
            logger.warning("%d leases could not be renewed: %r", len(self._held), error)
        self._timer = self._clock.call_later(self._lease / 3, self._start)

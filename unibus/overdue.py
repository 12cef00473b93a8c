"""Brokers that let a delivery be held for so long only: what could not be begun in time goes back before they act."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from unibus.cancellation import asked_to_end
from unibus.driver import Clock, Delivery, Narrowing, Timer

if TYPE_CHECKING:
    from unibus.consumer import Consumer

logger = logging.getLogger("unibus.consumer")

LOOKS = 4
"""How often we look within the time allowed: what goes back was held for three quarters of it at least."""


class Overdue:
    """Looks after one consumer until stopped, with one timer. hold: seconds, see `Capabilities.hold`."""

    def __init__(self, consumer: Consumer, hold: float) -> None:
        self._consumer = consumer
        self._clock: Clock = consumer.clock
        self._every = hold / LOOKS
        self._seen: dict[Delivery, int] = {}
        """How many looks have found each in hand."""
        self._task: asyncio.Task[None] | None = None
        self._timer: Timer = self._clock.call_later(self._every, self._look)

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        self._seen = {delivery: self._seen.get(delivery, 0) + 1 for delivery in self._consumer.held}
        if late := self._consumer.withdraw(self._late()):
            name = f"unibus overdue {self._consumer.plan.name}"
            self._task = asyncio.get_running_loop().create_task(self._return(late), name=name)
        self._timer = self._clock.call_later(self._every, self._look)

    def _late(self) -> set[Delivery]:
        """What no lane has begun by now; or has, but it has been parked since for as long again."""
        begun = self._consumer.verdicts.begun
        late = {d for d, looks in self._seen.items() if looks >= (2 * LOOKS if begun(d) else LOOKS)}
        late -= self._consumer.running()
        if self._consumer.keys is not None:
            # Of a key all goes back: what stayed would overtake it.
            keys = {delivery.key for delivery in late} - {None}
            late |= {d for d in self._consumer.held if d.key in keys and not begun(d)} - self._consumer.running()
        return late

    async def _return(self, late: list[Delivery]) -> None:
        """Hold no more than could be begun, first: else the same ones would come, and go back, again and again."""
        consumer = self._consumer
        consumer.prefetch = max(consumer.plan.concurrency, consumer.prefetch - len(late), 1)
        logger.warning(
            "%s gives back %d messages that it could not begin in time, and holds %d at most from now on; "
            "handlers are slow for its prefetch of %d",
            consumer.plan.name, len(late), consumer.prefetch, consumer.plan.prefetch,
        )  # fmt: skip
        try:
            if isinstance(consumer.subscription, Narrowing) and not consumer.suspects.single_only:
                await consumer.subscription.hold_at_most(consumer.prefetch)
        except (Exception, asyncio.CancelledError) as error:
            if asked_to_end():
                raise
            logger.debug("%s: its prefetch could not be changed: %r", consumer.plan.name, error)
        consumer.give_back([delivery for delivery in late if delivery in consumer.held])

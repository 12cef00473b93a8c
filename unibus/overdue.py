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
LONGEST = 64
"""Times the time allowed without anything late, after which we hold more again, however often something was."""


class Overdue:
    """Looks after one consumer until stopped, with one timer. hold: seconds, see `Capabilities.hold`."""

    def __init__(self, consumer: Consumer, hold: float) -> None:
        self._consumer = consumer
        self._clock: Clock = consumer.clock
        self._every = hold / LOOKS
        self._seen: dict[Delivery, int] = {}
        """How many looks have found each in hand."""
        self._looks = 0
        self._calm, self._convinced = 0, LOOKS
        """Looks in a row that found nothing late; and how many of them let us hold more again."""
        self._task: asyncio.Task[None] | None = None
        self._timer: Timer = self._clock.call_later(self._every, self._look)

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        self._timer = self._clock.call_later(self._every, self._look)
        consumer = self._consumer
        self._seen = {delivery: self._seen.get(delivery, 0) + 1 for delivery in consumer.held}
        self._looks += 1
        if self._task is not None and not self._task.done():
            return
        late = self._late()
        bound = self._bound(late)
        # A driver that keeps its window for the sake of the order holds more than we see: that must be renewed, too.
        renew = consumer.keys is not None and bound < consumer.plan.prefetch and self._looks % LOOKS == 0
        if late or renew or bound != consumer.prefetch:
            work, name = self._adapt(late, bound), f"unibus overdue {consumer.plan.name}"
            self._task = asyncio.get_running_loop().create_task(work, name=name)

    def _bound(self, late: set[Delivery]) -> int:
        """How many to hold from now on: what is begun at once if something was late, else the same ones would come,
        and go back, again and again. Twice as many when nothing was for long enough; that takes longer each time."""
        consumer, plan = self._consumer, self._consumer.plan
        if late:
            self._calm, self._convinced = 0, min(4 * self._convinced, LONGEST * LOOKS)
            blameless = not consumer.lanes or all(map(consumer.verdicts.is_pending, late))
            return consumer.prefetch if blameless else plan.concurrency
        self._calm += 1
        if self._calm < self._convinced:
            return consumer.prefetch
        self._calm = 0
        return min(2 * consumer.prefetch, plan.prefetch)

    def _late(self) -> set[Delivery]:
        """What no lane has begun by now; or what cannot be made a dead letter, for as long again."""
        consumer = self._consumer
        begun, pending = consumer.verdicts.begun, consumer.verdicts.is_pending
        late = {
            delivery
            for delivery, looks in self._seen.items()
            if looks >= LOOKS and (not begun(delivery) or (looks >= 2 * LOOKS and pending(delivery)))
        }
        if consumer.keys is not None:
            # Of a key all goes back: what stayed would overtake it.
            keys = {delivery.key for delivery in late} - {None}
            late |= {delivery for delivery in consumer.held if delivery.key in keys and not begun(delivery)}
        # Of a pull the user has in hand what is not in the buffer.
        return late - consumer.running() if consumer.lanes else late & set(consumer.buffer.items)

    async def _adapt(self, late: set[Delivery], bound: int) -> None:
        """First the bound, so that what goes back does not come again at once."""
        consumer, plan = self._consumer, self._consumer.plan
        consumer.prefetch = bound
        if late:
            logger.warning(
                "%s gives back %d messages that it could not begin in time, and holds %d at most for now; "
                "handlers are slow for its prefetch of %d",
                plan.name, len(late), bound, plan.prefetch,
            )  # fmt: skip
        try:
            if isinstance(consumer.subscription, Narrowing) and not consumer.suspects.single_only:
                await consumer.subscription.hold_at_most(bound)
        except (Exception, asyncio.CancelledError) as error:
            if asked_to_end():
                raise
            logger.debug("%s: its prefetch could not be changed: %r", plan.name, error)
        consumer.give_back(consumer.withdraw({delivery for delivery in late if delivery in consumer.held}))
        consumer.note_change()

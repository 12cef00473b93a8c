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
        if self._task is not None and not self._task.done():
            return
        late = self._late()
        self._calm = 0 if late else self._calm + 1
        if late or (self._calm >= self._convinced and consumer.prefetch < consumer.plan.prefetch):
            self._calm = 0
            if late:
                self._convinced = min(4 * self._convinced, LONGEST * LOOKS)
            work, name = self._adapt(late), f"unibus overdue {consumer.plan.name}"
            self._task = asyncio.get_running_loop().create_task(work, name=name)

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

    async def _adapt(self, late: set[Delivery]) -> None:
        """Hold no more than is begun at once, first: else the same ones would come, and go back, again and again.

        When all was begun in time for long enough, twice as much; the oftener it was late, the longer that takes.
        """
        consumer, plan = self._consumer, self._consumer.plan
        if late:
            if consumer.lanes and not all(map(consumer.verdicts.is_pending, late)):
                consumer.prefetch = plan.concurrency
            logger.warning(
                "%s gives back %d messages that it could not begin in time, and holds %d at most for now; "
                "handlers are slow for its prefetch of %d",
                plan.name, len(late), consumer.prefetch, plan.prefetch,
            )  # fmt: skip
        else:
            consumer.prefetch = min(2 * consumer.prefetch, plan.prefetch)
        try:
            if isinstance(consumer.subscription, Narrowing) and not consumer.suspects.single_only:
                await consumer.subscription.hold_at_most(consumer.prefetch)
        except (Exception, asyncio.CancelledError) as error:
            if asked_to_end():
                raise
            logger.debug("%s: its prefetch could not be changed: %r", plan.name, error)
        consumer.give_back(consumer.withdraw({delivery for delivery in late if delivery in consumer.held}))
        consumer.note_change()

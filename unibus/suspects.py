"""Messages that may have taken their process down.

A handler that kills its process raises the broker's count of everything that was prefetched, so a
high count convicts nobody. It makes a *suspect*: re-sent to its own consumer with a mark, so that
its count starts again, and handled with nothing beside it. Only a marked message's count is
evidence: at its third delivery it is a dead letter before the handler runs.

On an ordered address nothing can be re-sent. There the first fetch takes one message, and goes on
one at a time for as long as they are suspects; each crash then counts for the head alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from unibus import attributes as names
from unibus.driver import Delivery, Narrowing, Queue
from unibus.errors import Crashed
from unibus.outcome import Reject

if TYPE_CHECKING:
    from unibus.consumer import Consumer

SUSPECT_AT = 3
"""Deliveries that make a suspect; of a marked message, a conviction."""
CONVICT_IN_PLACE_AT = 6
"""Deliveries that convict on an ordered address: three beside others, three alone."""
REMEMBERED, ACQUITTALS = 1000, 3
"""Messages that were taken from us, at most; and how often one may be, before it counts against it."""


class Suspects:
    """Decides for one consumer. `single_only`: fetch one message at a time, with nothing else in hand."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        plan = consumer.plan
        # A consumer of dead letters gives back what it cannot handle, so there a count says nothing.
        nowhere_to_go = isinstance(plan.source, Queue) and plan.source.is_dead_letters and plan.dead_letters is None
        capabilities = consumer.bus.capabilities
        counted = (capabilities.ordered_delivery_count if plan.ordered else capabilities.delivery_count) != "none"
        self._watching = counted and not nowhere_to_go and (plan.ordered or plan.resendable)
        self.single_only = self._watching and plan.ordered
        self._resending: asyncio.Future[list[None]] | None = None
        self._taken: dict[str, int] = {}
        """Ids of suspects that were taken from us while in hand, and how often: we live, so they do not kill."""

    def any(self, batch: Sequence[Delivery]) -> bool:
        """Whether the batch needs `sort`: nearly never."""
        if not self._watching:
            return False
        return self.single_only or any(map(_odd, batch))

    async def sort(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Deal with suspects; returns once they are off our hands, with those that may be handled as usual."""
        if self._consumer.plan.ordered:
            return await self._in_place(batch)
        # Suspects come in a row, since all that was prefetched was re-sent in a row: one at a time from here.
        if await self._narrow(any(map(_odd, batch))) and self.single_only:
            batch = [*batch, *await self._consumer.receive_at_once()]
        judged = self._consumer.verdicts.begun  # what is to be a dead letter for another reason is no suspect
        odd = [delivery for delivery in batch if _odd(delivery) and not judged(delivery)]
        plain = [delivery for delivery in batch if not _odd(delivery) or judged(delivery)]
        marked = []
        resent = []
        for delivery in odd:
            if names.ALONE not in delivery.attributes or self._acquits(delivery):
                resent.append(delivery)
            elif (delivery.deliveries or 0) >= SUSPECT_AT:
                await self._convict(delivery)
            else:
                marked.append(delivery)
        resent += marked[1:]
        if resent:
            await self._resend(resent)
        if not marked:
            return plain
        self._consumer.give_back(plain)
        await self._alone(marked[0])
        return []

    def lost(self, deliveries: Iterable[Delivery]) -> None:
        """The broker counts a lost connection like a death; we know better."""
        if not self._watching:
            return
        for delivery in deliveries:
            if names.ALONE in delivery.attributes or (self._consumer.plan.ordered and _odd(delivery)):
                self._taken[delivery.message_id] = self._taken.get(delivery.message_id, 0) + 1
        while len(self._taken) > REMEMBERED:
            del self._taken[next(iter(self._taken))]

    def _acquits(self, delivery: Delivery) -> bool:
        """Whether its count comes from connections that we lost. But what costs one each time is a killer, too."""
        return 0 < self._taken.get(delivery.message_id, 0) <= ACQUITTALS and (delivery.deliveries or 0) > 1

    async def rescue(self) -> None:
        """At shutdown: what is marked and was not begun goes back by being re-sent, so that its count starts again.

        Given back as it is, three shutdowns would convict it.
        """
        consumer = self._consumer
        if not self._watching or consumer.plan.ordered:
            return
        if self._resending is not None:
            await self._resending
        if isinstance(consumer.subscription, Narrowing):
            await consumer.subscription.hold_at_most(0)
            await consumer.receive_at_once()
        await consumer.settler.flush()  # what is done with is in hand until the broker has heard
        running = consumer.running()
        marked = [delivery for delivery in consumer.held if names.ALONE in delivery.attributes]
        left = [delivery for delivery in marked if delivery not in running]
        consumer.withdraw(set(left))
        await self._resend(left)

    async def _resend(self, deliveries: Sequence[Delivery]) -> None:
        """In a task of its own: the fetch loop may be stopped meanwhile, and what is sent must still be acked."""
        resending = asyncio.gather(*[self._consumer.verdicts.resend_alone(delivery) for delivery in deliveries])
        self._resending = resending
        await asyncio.shield(resending)

    async def _alone(self, delivery: Delivery) -> None:
        """Handle it with nothing else in our hands: give back what has not started, wait for what has."""
        consumer = self._consumer
        others = {other for other in consumer.held if other is not delivery}
        consumer.give_back(consumer.withdraw(others))
        running = any(lane.held for lane in consumer.lanes)
        if running and (delivery.deliveries or 0) > 1:
            # A crash of those that run now would count against it: it must start afresh.
            await consumer.verdicts.resend_alone(delivery)
            return
        while set(consumer.held) - {delivery}:
            # What a lane parks now (a retry, a claim) would stay in our hands: it goes back, too.
            consumer.give_back(consumer.withdraw({other for other in consumer.held if other is not delivery}))
            await consumer.change()
        if delivery not in consumer.held:
            return
        consumer.admit([delivery])
        while delivery in consumer.held:
            await consumer.change()

    async def _in_place(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        suspect = any((delivery.deliveries or 0) >= SUSPECT_AT for delivery in batch)
        alone = self.single_only
        await self._narrow(suspect)
        if not (alone and suspect):
            return batch
        (delivery,) = batch
        if (delivery.deliveries or 0) >= CONVICT_IN_PLACE_AT and not self._acquits(delivery):
            await self._convict(delivery)
            return []
        return batch

    async def _narrow(self, single: bool) -> bool:
        """Fetch one at a time from now on, or many. Returns whether the broker had to be told: it pushes, and
        a crash counts for all that it has pushed."""
        if single == self.single_only:
            return False
        self.single_only = single
        subscription = self._consumer.subscription
        if not isinstance(subscription, Narrowing):
            return False
        await subscription.hold_at_most(1 if single else self._consumer.prefetch)
        return True

    async def _convict(self, delivery: Delivery) -> None:
        count = delivery.deliveries
        crashed = Crashed(f"the process died with this message in hand; this is its delivery {count}")
        await self._consumer.verdicts.carry_out(delivery, None, Reject(f"Crashed: {crashed}", crashed))


def _odd(delivery: Delivery) -> bool:
    return (delivery.deliveries or 0) >= SUSPECT_AT or names.ALONE in delivery.attributes

"""Settling: outcomes of one subscription, coalesced like sends. Handlers never wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from unibus.cancellation import asked_to_end
from unibus.driver import Clock, Delivery, Limits, Outcome, Subscription
from unibus.errors import DriverError, SettlementLost
from unibus.message import Message

logger = logging.getLogger("unibus.consumer")

TRIES = 5
"""A settlement that fails for a passing reason is tried so often; then the broker delivers again."""
WORTH_A_CALL, LONGEST_DEFERRAL = 64, 0.002
"""While handlers run without suspending, which is when acks come fast, a call waits for so many of them, or for so
many seconds: what it costs beside its messages is worth several of them."""


class Settler:
    """`settled(deliveries, lost)` is told when deliveries are off our hands; `lost` of them will come again.
    more_to_come: whether a handler has just ended, and the next one is about to run.
    """

    def __init__(
        self,
        subscription: Subscription,
        limits: Limits,
        clock: Clock,
        settled: Callable[[Sequence[Delivery], int], None],
        more_to_come: Callable[[], bool],
    ) -> None:
        self._subscription = subscription
        self._limits = limits
        self._clock = clock
        self._settled = settled
        self._more_to_come = more_to_come
        self._deferred_at: float | None = None
        self.acks: list[Delivery] = []
        """Add to it and call `schedule` unless `scheduled`: the way of nearly every message."""
        self.scheduled = False
        self._others: list[tuple[Delivery, Outcome]] = []
        self._after: dict[asyncio.Future[None], list[Delivery]] = {}
        self._calls: set[asyncio.Task[None]] = set()

    def ack(self, delivery: Delivery) -> None:
        self.acks.append(delivery)
        if not self.scheduled:
            self.schedule()

    def ack_handled(self, message: Message[Any]) -> None:
        """At once, or when what a middleware has begun is done. If that is cancelled, never: it will come again."""
        done = message.settle_after
        if done is None:
            self.ack(message.delivery)
            return
        waiting = self._after.get(done)
        if waiting is None:
            waiting = self._after[done] = []
            done.add_done_callback(self._may_ack)
        waiting.append(message.delivery)

    def _may_ack(self, done: asyncio.Future[None]) -> None:
        deliveries = self._after.pop(done, None)
        if deliveries and not done.cancelled():
            self.settle(deliveries, Outcome.ACK)

    def settle(self, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
        if outcome is Outcome.ACK:
            self.acks.extend(deliveries)
        else:
            self._others.extend([(delivery, outcome) for delivery in deliveries])
        if not self.scheduled:
            self.schedule()

    def schedule(self) -> None:
        self.scheduled = True
        asyncio.get_running_loop().call_soon(self._start)

    async def flush(self) -> None:
        while self._calls or self.acks or self._others or self._after:
            if self._calls or self._after:
                await asyncio.wait({*self._calls, *self._after}, return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0)

    def abort(self) -> None:
        """Settle nothing more."""
        self.acks.clear()
        self._others.clear()
        self._after.clear()
        for call in self._calls:
            call.cancel()

    def _start(self) -> None:
        """Calls for what waits, as many as may be in flight; `_ended` goes on with the rest."""
        if self._may_defer():
            self.schedule()
            return
        self._deferred_at = None
        self.scheduled = False
        while (waiting := len(self.acks) + len(self._others)) and len(self._calls) < self._limits.calls:
            if self._calls and waiting < self._limits.min_messages:
                return
            batch, outcome = self._take()
            call = asyncio.get_running_loop().create_task(self._call(batch, outcome))
            self._calls.add(call)
            call.add_done_callback(self._ended)

    def _may_defer(self) -> bool:
        """Whether acks wait that may wait for others."""
        if self._others or not 0 < len(self.acks) < WORTH_A_CALL or not self._more_to_come():
            return False
        now = perf_counter()
        if self._deferred_at is None:
            self._deferred_at = now
        return now - self._deferred_at < LONGEST_DEFERRAL

    def _take(self) -> tuple[list[Delivery], Outcome]:
        most = self._limits.messages
        if self.acks:
            if len(self.acks) <= most:
                batch = self.acks[:]
                self.acks.clear()
            else:
                batch = self.acks[:most]
                del self.acks[:most]
            return batch, Outcome.ACK
        outcome = self._others[0][1]
        batch = [delivery for delivery, other in self._others if other is outcome][:most]
        taken = set(batch)
        self._others = [pair for pair in self._others if pair[0] not in taken]
        return batch, outcome

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not self.scheduled and (self.acks or self._others):
            self._start()

    async def _call(self, batch: list[Delivery], outcome: Outcome) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                await self._subscription.settle(batch, outcome)
            except SettlementLost as error:
                logger.debug("%s", error)
                self._settled(batch, error.count)
                return
            except DriverError as error:
                if not error.retryable or attempt == TRIES:
                    logger.warning("%d deliveries could not be settled and will come again: %s", len(batch), error)
                    self._settled(batch, len(batch))
                    return
            except (Exception, asyncio.CancelledError) as error:
                if asked_to_end():
                    raise
                logger.error("%d deliveries could not be settled and will come again", len(batch), exc_info=error)
                self._settled(batch, len(batch))
                return
            else:
                self._settled(batch, 0)
                return
            await self._clock.sleep(min(0.1 * 2**attempt, 2.0))

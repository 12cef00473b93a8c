"""Moves delayed records of one target: from tier to tier, and at their time to the target."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from unibus.driver import Clock, Delivery, Outcome
from unibus.errors import BatchError, SettlementLost, UnibusError
from unibus_kafka import delays
from unibus_kafka.records import Place, Record, due_of, with_due
from unibus_kafka.subscription import CLOSING, KafkaSubscription

logger = logging.getLogger("unibus.kafka")

AT_ONCE = 500
"""Records that are moved in one go."""
AGAIN = 1.0
"""Seconds after which what could not be moved is tried again."""

Move = Callable[[Sequence[tuple[str, Record]]], Awaitable[None]]
"""Send records to topics, all confirmed, or BatchError."""


class Forwarder:
    """A consumer of the tiers of one target, in the group of its forwarders. A record is settled when it is stored at
    its next place, so that one that dies in between is moved by another, and may come twice."""

    def __init__(self, target: str, subscription: KafkaSubscription, move: Move, clock: Clock) -> None:
        self._target = target
        self._subscription = subscription
        self._move = move
        self._clock = clock
        self._heap: list[tuple[float, int, float, Delivery]] = []
        """When to look at it, in which order it came, when it is due."""
        self._came = 0
        self._receiving: asyncio.Task[Sequence[Delivery]] | None = None
        self._forwarding: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until cancelled. Then what is on its way may arrive and be settled first: it would be moved twice."""
        try:
            await self._subscription.start()
            while True:
                await self._turn()
        finally:
            if self._receiving is not None:
                self._receiving.cancel()
            if self._forwarding is not None:
                await asyncio.wait([self._forwarding], timeout=CLOSING)
                self._forwarding.cancel()
            await self._subscription.close()

    async def _turn(self) -> None:
        """What is due goes on; then wait for the next to be, or for another to come."""
        now = self._clock.now()
        ready: list[tuple[float, int, float, Delivery]] = []
        while self._heap and self._heap[0][0] <= now and len(ready) < AT_ONCE:
            ready.append(heapq.heappop(self._heap))
        loop = asyncio.get_running_loop()
        if ready:
            self._forwarding = loop.create_task(self._forward(ready), name=f"unibus kafka forward to {self._target}")
            await asyncio.shield(self._forwarding)
            return
        if self._receiving is None:
            self._receiving = loop.create_task(self._subscription.receive(AT_ONCE, 60.0))
        wait = min(self._heap[0][0] - now, 60.0) if self._heap else 60.0
        done, _ = await asyncio.wait([self._receiving], timeout=wait)
        if done:
            batch, self._receiving = self._receiving.result(), None
            for delivery in batch:
                self._take(delivery)

    def _take(self, delivery: Delivery) -> None:
        record = delivery.native
        parsed = delays.parsed(record.topic)
        tier, stored = (parsed[0] if parsed else 0), record.timestamp / 1000
        due = delays.due_of(due_of(record.headers), stored, tier)
        self._came += 1
        heapq.heappush(self._heap, (delays.next_look(due, stored, tier), self._came, due, delivery))

    async def _forward(self, ready: list[tuple[float, int, float, Delivery]]) -> None:
        now = self._clock.now()
        going: list[tuple[float, Delivery]] = []
        moves: list[tuple[str, Record]] = []
        for _, came, due, delivery in ready:
            if not isinstance(delivery.token, Place):
                continue  # another has it now
            remaining = due - now
            if 0 < remaining < delays.TIERS[0]:
                heapq.heappush(self._heap, (due, came, due, delivery))
                continue
            going.append((due, delivery))
            moves.append(self._next(delivery, due, remaining))
        if not moves:
            return
        failed: dict[int, Exception] = {}
        try:
            await self._move(moves)
        except BatchError as error:
            failed = error.errors
        except UnibusError as error:
            failed = dict.fromkeys(range(len(moves)), error)
        moved = [delivery for index, (_, delivery) in enumerate(going) if index not in failed]
        with suppress(SettlementLost):  # taken from us meanwhile: it is moved twice
            await self._subscription.settle(moved, Outcome.ACK)
        for index, reason in failed.items():
            logger.debug("%s: a delayed record could not be moved: %r", self._target, reason)
            self._came += 1
            due, delivery = going[index]
            heapq.heappush(self._heap, (now + AGAIN, self._came, due, delivery))

    def _next(self, delivery: Delivery, due: float, remaining: float) -> tuple[str, Record]:
        record = delivery.native
        if remaining <= 0:
            return self._target, Record(record.key, record.value, with_due(record.headers, None))
        topic = delays.topic_of(delays.tier_for(remaining), self._target)
        return topic, Record(record.key, record.value, with_due(record.headers, due))

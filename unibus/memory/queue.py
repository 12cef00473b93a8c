"""One queue of the queue model: what is ready, what is delayed, who waits."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING

from unibus.driver import Clock, Delivery, Depth, Ordering, Outbound
from unibus.memory.alarm import NEVER, Alarm
from unibus.memory.fifo import Entry, Fifo, Store
from unibus.memory.keyed import Keyed

if TYPE_CHECKING:
    from unibus.memory.queue_subscription import QueueSubscription

_NEW = -1
"""The place of a delayed message: it gets its place once it is due."""


class MessageQueue:
    """Messages until they are settled. A settled message leaves no trace."""

    def __init__(self, name: str, ordering: Ordering, partitions: int | None, clock: Clock) -> None:
        self.name = name
        self.ordering = ordering
        self.partitions = partitions
        self.store: Store = Keyed(clock.monotonic) if ordering == "key" else Fifo()
        self._clock = clock
        self._place = 0
        self._delayed: list[tuple[float, int, Entry]] = []
        self._ties = 0
        self._subscriptions: list[QueueSubscription] = []
        self._waiting: dict[QueueSubscription, None] = {}
        self._alarm = Alarm(clock, self._ring)

    def put(self, messages: Sequence[Outbound], topic: str | None = None) -> None:
        """Store messages; `topic` is for those that do not name their own."""
        sent, now = self._clock.now(), self._clock.monotonic()
        later = [message for message in messages if message.delay > 0]
        if later:
            for message in later:
                entry = (_NEW, 0, sent, 0.0, message, message.topic or topic)
                self._delay(now + message.delay, entry)
            messages = [message for message in messages if message.delay <= 0]
        start = self._place
        self._place += len(messages)
        self.store.add(
            [(n, 0, sent, now, message, message.topic or topic) for n, message in enumerate(messages, start)]
        )
        if self._waiting:
            self.wake()

    def give_back(self, holder: QueueSubscription, entries: Sequence[Entry], delay: float = 0.0) -> None:
        """Unsettled deliveries return to their place; each has been handed out once more."""
        again: list[Entry] = [
            (place, count + 1, sent, since, message, topic) for place, count, sent, since, message, topic in entries
        ]
        if delay > 0:
            due = self._clock.monotonic() + delay
            self.store.hold_back(holder, again, due)
            for entry in again:
                self._delay(due, entry)
        else:
            self.store.give_back(holder, again)
        self.wake()

    def join(self, subscription: QueueSubscription) -> None:
        self._subscriptions.append(subscription)

    def leave(self, subscription: QueueSubscription) -> None:
        self._subscriptions.remove(subscription)
        self._waiting.pop(subscription, None)
        self.store.forget(subscription)
        self.expiry_changed()
        self.wake()

    def wait(self, subscription: QueueSubscription, yes: bool) -> None:
        if yes:
            self._waiting[subscription] = None
        else:
            self._waiting.pop(subscription, None)

    def wake(self) -> None:
        if self._waiting:
            for subscription in self.store.able(self._waiting):
                subscription.wake()

    def expires(self, due: float) -> None:
        """A lease ends at `due`."""
        self._alarm.by(due)

    def expiry_changed(self) -> None:
        """Leases ended earlier than expected: no timer stays that nobody needs."""
        self._arm()

    def depth(self) -> Depth:
        oldest = self.store.oldest()
        return Depth(
            ready=self.store.ready(),
            in_flight=sum(subscription.in_flight for subscription in self._subscriptions),
            delayed=len(self._delayed),
            oldest_age=None if oldest is None else max(self._clock.monotonic() - oldest[3], 0.0),
        )

    def browse(self, after: int, limit: int, counted: bool) -> tuple[list[Delivery], str | None]:
        """What is ready behind the place `after`, untouched."""
        found = list(islice((entry for entry in self.store if entry[0] > after), limit + 1))
        shown = [
            Delivery(
                message.body, message.attributes, message.headers, message.key, message.message_id,
                topic or self.name, sent, count if counted else None, count > 0, None,
            )
            for _, count, sent, _, message, topic in found[:limit]
        ]  # fmt: skip
        return shown, str(found[limit - 1][0]) if len(found) > limit else None

    def close(self) -> None:
        self._alarm.stop()

    def _delay(self, due: float, entry: Entry) -> None:
        self._ties += 1  # what is due at one time keeps the order of sending
        heappush(self._delayed, (due, self._ties, entry))
        self._alarm.by(due)

    def _ring(self) -> None:
        now = self._clock.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            entry = heappop(self._delayed)[2]
            if entry[0] == _NEW:
                _, _, sent, _, message, topic = entry
                self.store.add(((self._place, 0, sent, now, message, topic),))
                self._place += 1
            else:
                self.store.resume(entry)
        for subscription in list(self._subscriptions):
            subscription.expire(now)
        self._arm()
        self.wake()

    def _arm(self) -> None:
        due = min((subscription.expires_next() for subscription in self._subscriptions), default=NEVER)
        self._alarm.set(min(due, self._delayed[0][0]) if self._delayed else due)

"""A consumer of one queue: what it holds, and for how long."""

from __future__ import annotations

from collections.abc import Sequence

from unibus.driver import Clock, Delivery, Lost, Outcome, Source
from unibus.memory.alarm import NEVER
from unibus.memory.fifo import Entry
from unibus.memory.options import Options
from unibus.memory.queue import MessageQueue
from unibus.memory.subscription import LOST, MemorySubscription, Notify


class _Lease:
    """The token of the deliveries of one receive. `limit`: when they end however often extended."""

    __slots__ = ("expires", "holder", "limit")

    def __init__(self, holder: QueueSubscription, expires: float, limit: float) -> None:
        self.holder = holder
        self.expires = expires
        self.limit = limit


class QueueSubscription(MemorySubscription):
    """Holds deliveries until they are settled, given back or expired."""

    def __init__(
        self,
        source: Source,
        queue: MessageQueue,
        prefetch: int,
        notify: Notify,
        clock: Clock,
        options: Options,
    ) -> None:
        super().__init__(source, prefetch, notify, clock, options)
        self.queue = queue
        # In order of handing out, which is the order of expiry as long as `_sorted`.
        self._held: dict[Delivery, Entry] = {}
        self._sorted = True
        self._latest = 0.0
        self._lease = options.lease or NEVER
        self._hold = options.hold or NEVER
        self._name = source.name
        queue.join(self)

    @property
    def in_flight(self) -> int:
        return len(self._held)

    def expires_next(self) -> float:
        """When the first of the leases ends."""
        held = self._held
        if not held or (self._lease == NEVER and self._hold == NEVER):
            return NEVER
        if self._sorted:
            return float(next(iter(held)).token.expires)
        return min(float(delivery.token.expires) for delivery in held)

    def expire(self, now: float) -> None:
        """Give back the deliveries whose lease has ended, and tell the holder."""
        lost = []
        for delivery in self._held:
            if delivery.token.expires <= now:
                lost.append(delivery)
            elif self._sorted:
                break
        if lost:
            self._lose(lost)
            self.notify(Lost(lost))

    def _take(self, limit: int) -> list[Delivery]:
        held = self._held
        entries = self.queue.store.take(self, min(limit, self._prefetch - len(held)))
        if not entries:
            return []
        lease = self._new_lease(NEVER)
        counted = self._options.count == "on"
        name = self._name
        batch = []
        for entry in entries:
            _, count, sent, _, message, topic = entry
            delivery = Delivery(
                message.body, message.attributes, message.headers, message.key, message.message_id,
                topic or name, sent, count + 1 if counted else None, count > 0, lease,
            )  # fmt: skip
            held[delivery] = entry
            batch.append(delivery)
        if self._options.at_most_once:
            held.clear()
            self.queue.store.done(self, entries)
        elif lease.expires != NEVER:
            self.queue.expires(lease.expires)
        self.queue.wake()
        return batch

    def _settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float) -> int:
        held = self._held
        was_full = len(held) >= self._prefetch
        found = [held.pop(delivery, None) for delivery in deliveries]
        stale = 0
        if None in found:
            stale = sum(self._is_stale(delivery) for delivery in deliveries)
            entries = [entry for entry in found if entry is not None]
        else:
            entries = found  # type: ignore[assignment]
        if outcome is Outcome.NACK:
            self.queue.give_back(self, entries, delay)
        else:
            self.queue.store.done(self, entries)
        self._after_settling(was_full)
        return stale

    def _after_settling(self, was_full: bool) -> None:
        if not self._held:
            self._sorted = True
            self.queue.expiry_changed()
        if was_full:
            self.wake()
        elif self.queue.ordering == "key":
            self.queue.wake()  # a key may have become free for others

    def _is_stale(self, delivery: Delivery) -> bool:
        token = delivery.token
        # Ours and not held: settled before, which is no error.
        return not (isinstance(token, _Lease) and token.holder is self)

    def _extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        leases: dict[float, _Lease] = {}
        for delivery in deliveries:
            entry = self._held.pop(delivery, None)
            if entry is None:
                continue  # settled, or lost and told
            limit = delivery.token.limit
            lease = leases.get(limit)
            if lease is None:
                lease = leases[limit] = self._new_lease(limit, seconds)
            delivery.token = lease
            self._held[delivery] = entry
        self.queue.expiry_changed()

    def _leave(self) -> None:
        self._lose(list(self._held))
        self.queue.leave(self)

    def _waits(self, yes: bool) -> None:
        # At its prefetch it waits for its own settling, not for messages.
        self.queue.wait(self, yes and len(self._held) < self._prefetch)

    def _pass_on(self) -> None:
        self.queue.wake()

    def _lose(self, deliveries: Sequence[Delivery]) -> None:
        entries = [self._held.pop(delivery) for delivery in deliveries]
        for delivery in deliveries:
            delivery.token = LOST
        self.queue.give_back(self, entries)
        self.wake()

    def _new_lease(self, limit: float, seconds: float | None = None) -> _Lease:
        now = self._clock.monotonic()
        limit = min(limit, now + self._hold)
        expires = min(now + (self._lease if seconds is None or self._lease == NEVER else seconds), limit)
        if expires < self._latest and self._held:
            self._sorted = False
        self._latest = expires
        return _Lease(self, expires, limit)

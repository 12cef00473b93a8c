"""What one subscription holds: entries that are ours until their lease ends, by our own clock, which is never later
than the server's: it begins before the server's does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from unibus.driver import Clock, Delivery, DriverEvent, Inbox, Lost, Source, Timer
from unibus_redis.entries import Entry, again, deliveries_of, delivery_of


class Holding:
    def __init__(
        self,
        source: Source,
        prefetch: int,
        lease: float,
        notify: Callable[[DriverEvent], None],
        clock: Clock,
    ) -> None:
        self.inbox = Inbox(str(source), prefetch, clock)
        self.lease = lease
        self.notify = notify
        self.ordered = source.ordering == "key"
        self.expired = False
        """Whether leases have ended since this was last set to False."""
        self._address = source.name
        self._clock = clock
        self._by_id: dict[bytes, Delivery] = {}
        self._timer: Timer | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, entry_id: bytes) -> bool:
        return entry_id in self._by_id

    def take_new(self, entries: Iterable[tuple[bytes, Sequence[bytes]]], started: float) -> None:
        """Entries that nobody had before. started: when they were asked for."""
        expires = started + self.lease
        taken = deliveries_of(entries, self._address, expires)
        self._by_id.update(taken)
        self.inbox.put(taken.values())
        self._watch(expires)

    def take_over(self, entry_id: bytes, fields: Sequence[bytes], count: int, started: float) -> None:
        """One that somebody had before, ourselves perhaps."""
        if entry_id in self._by_id:
            self.lose([self._by_id[entry_id]])
        expires = started + self.lease
        delivery = self._by_id[entry_id] = delivery_of(Entry(entry_id, fields, count, expires), self._address)
        self.inbox.put([delivery])
        self._watch(expires)

    def hand_out_again(self, deliveries: Iterable[Delivery]) -> None:
        """Of an ordered source: in their place, before what came later."""
        fresh = [again(delivery) for delivery in deliveries]
        self.inbox.done(deliveries)
        for delivery in fresh:
            self._by_id[delivery.token.id] = delivery
        ordered = deque(sorted([*self.inbox.ready, *fresh], key=lambda delivery: delivery.token.place))
        self.inbox.ready.clear()
        self.inbox.put(ordered)

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """They are settled."""
        by_id = self._by_id
        for delivery in deliveries:
            entry_id = delivery.token.id
            if by_id.get(entry_id) is delivery:
                del by_id[entry_id]

    def ours(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        return [
            delivery
            for delivery in deliveries
            if isinstance(delivery.token, Entry) and self._by_id.get(delivery.token.id) is delivery
        ]

    def all(self) -> list[Delivery]:
        return list(self._by_id.values())

    def expiring(self, before: float) -> list[Delivery]:
        """What nobody has received yet and whose lease ends soon."""
        return [one for one in self.inbox.ready if isinstance(one.token, Entry) and one.token.expires < before]

    def lose(self, deliveries: Sequence[Delivery]) -> None:
        """They are no longer ours; the core is told of those that it has."""
        for delivery in deliveries:
            if isinstance(delivery.token, Entry):
                self._by_id.pop(delivery.token.id, None)
        told = self.inbox.lose(deliveries)
        if told:
            self.notify(Lost(told))

    def expire(self) -> None:
        """For tests: as if all leases had ended."""
        for delivery in self._by_id.values():
            delivery.token.expires = 0.0
        self._expire()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, expires: float) -> None:
        """One timer for all. What is taken later, or renewed, ends later."""
        if self._timer is None and self._by_id:
            self._timer = self._clock.call_later(max(expires - self._clock.monotonic(), 0.0), self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        gone = [one for one in self._by_id.values() if one.token.expires <= now]
        if gone:
            self.expired = True
            # Of an ordered source what comes after it must not be handled first.
            self.lose(self.all() if self.ordered else gone)
        if self._by_id:
            self._watch(min(one.token.expires for one in self._by_id.values()))

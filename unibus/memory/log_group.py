"""The members of a group, and how the partitions move between them."""

from __future__ import annotations

from unibus.driver import Clock, Depth, Ordering, Revoking, Start, TopicSubscription
from unibus.memory.alarm import NEVER, Alarm
from unibus.memory.cursor import Cursor
from unibus.memory.log import Log
from unibus.memory.log_subscription import LogSubscription


class Group:
    """Who reads some logs together: the consumers of a queue, of a group, or one ephemeral subscriber."""

    def __init__(self, ordering: Ordering, own: Log | None, clock: Clock, revoke_timeout: float) -> None:
        self.ordering = ordering
        self.own = own
        self.subscription: TopicSubscription | None = None
        self.start: Start = "new"
        self.cursors: list[Cursor] = []
        self._clock = clock
        self._revoke_timeout = revoke_timeout
        self._members: list[LogSubscription] = []
        self._alarm = Alarm(clock, self._ring)
        if own is not None:
            self.read(own, earliest=True)

    def read(self, log: Log, earliest: bool) -> None:
        """Read a log from its beginning, or from its end."""
        for partition in log.partitions:
            start = partition.base if earliest else partition.end
            cursor = Cursor(partition, start, self.ordering == "key")
            partition.readers.append(cursor)
            self.cursors.append(cursor)
        self.cursors.sort(key=lambda cursor: (cursor.partition.log, cursor.partition.index))
        self.rebalance()

    def follow(self, subscription: TopicSubscription, topics: list[Log]) -> None:
        """Read the topics that match; those that no longer do are left, with all that is in flight."""
        self.subscription = subscription
        own = self.own.name if self.own is not None else None
        reads = {cursor.partition.log for cursor in self.cursors}
        for cursor in list(self.cursors):
            log_name = cursor.partition.log
            if log_name != own and not subscription.matches(log_name):
                self._forget(cursor)
        for log in topics:
            if log.name not in reads and subscription.matches(log.name):
                self.read(log, earliest=subscription.start == "earliest")
        self.rebalance()

    def appeared(self, log: Log) -> None:
        """A topic was published to for the first time: a group that wants it misses nothing."""
        if self.subscription is not None and self.subscription.matches(log.name):
            self.read(log, earliest=True)

    def join(self, member: LogSubscription) -> None:
        self._members.append(member)
        self.rebalance()

    def leave(self, member: LogSubscription) -> None:
        """Its partitions go to the others at once, from the low-water mark."""
        self._members.remove(member)
        for cursor in list(member.cursors):
            member.drop(cursor)
            cursor.restart()
            cursor.owner = None
        self.rebalance()

    def close(self) -> None:
        for cursor in list(self.cursors):
            self._forget(cursor)
        self._alarm.stop()

    def rebalance(self) -> None:
        """Spread the partitions evenly, and move as few as that takes."""
        self._plan()
        deadline = self._clock.monotonic() + self._revoke_timeout
        revoked: dict[LogSubscription, set[Cursor]] = {}
        for cursor in self.cursors:
            if cursor.revoking or cursor.owner is cursor.target:
                continue
            if cursor.owner is None or not cursor.in_flight:
                self.hand_over(cursor)
                continue
            cursor.revoking, cursor.deadline = True, deadline
            revoked.setdefault(cursor.owner, set()).add(cursor)
        self.rearm()
        # Told at the end, when nothing is half done.
        for member, cursors in revoked.items():
            member.notify(Revoking(member.of(cursors), deadline))

    def hand_over(self, cursor: Cursor) -> None:
        """The owner gives up a partition; what it still holds of it is lost to it."""
        owner, cursor.owner = cursor.owner, cursor.target
        if owner is not None:
            lost = owner.drop(cursor)
            cursor.restart()
            owner.lost(lost)
        if cursor.target is not None:
            cursor.target.cursors.append(cursor)
            cursor.target.wake()

    def due(self, due: float) -> None:
        """Something is handed out again at that time."""
        self._alarm.by(due)

    def rearm(self) -> None:
        """Ring when the next message or deadline is due."""
        self._alarm.set(min((cursor.next_due() for cursor in self.cursors), default=NEVER))

    def depth(self) -> Depth:
        since = [oldest for cursor in self.cursors if (oldest := cursor.oldest()) is not None]
        return Depth(
            ready=sum(cursor.ready() for cursor in self.cursors),
            in_flight=sum(cursor.in_flight for cursor in self.cursors),
            delayed=sum(cursor.delayed() for cursor in self.cursors) + (self.own.delayed if self.own else 0),
            oldest_age=max(self._clock.monotonic() - min(since), 0.0) if since else None,
        )

    def _plan(self) -> None:
        """Set every target: whom each partition belongs to when all have moved."""
        if not self._members:
            for cursor in self.cursors:
                cursor.target = None
            return
        share, extra = divmod(len(self.cursors), len(self._members))
        counts = dict.fromkeys(self._members, 0)
        homeless = []
        for cursor in self.cursors:
            target = cursor.target
            if target is None or target not in counts or counts[target] >= share + (extra > 0):
                homeless.append(cursor)
                continue
            counts[target] += 1
            extra -= counts[target] > share
        for cursor in homeless:
            cursor.target = min(counts, key=counts.__getitem__)
            counts[cursor.target] += 1

    def _forget(self, cursor: Cursor) -> None:
        cursor.target = None
        self.hand_over(cursor)
        self.cursors.remove(cursor)
        cursor.partition.readers.remove(cursor)
        cursor.partition.trim()

    def _ring(self) -> None:
        now = self._clock.monotonic()
        for cursor in list(self.cursors):
            cursor.resume(now)
            if cursor.revoking and cursor.deadline <= now:
                self.hand_over(cursor)
        self.rearm()

"""A member of a group that reads logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unibus.driver import Clock, Delivery, Lost, Outcome, Source
from unibus.memory.cursor import Cursor
from unibus.memory.options import Options
from unibus.memory.subscription import LOST, MemorySubscription, Notify

if TYPE_CHECKING:
    from unibus.memory.log_group import Group


class LogSubscription(MemorySubscription):
    """Reads the partitions that the group gave it, until it is told to give them up."""

    def __init__(
        self, source: Source, group: Group, prefetch: int, notify: Notify, clock: Clock, options: Options
    ) -> None:
        super().__init__(source, prefetch, notify, clock, options)
        self.cursors: list[Cursor] = []
        self._group = group
        self._held: dict[Delivery, tuple[Cursor, int]] = {}
        self._turn = 0
        group.join(self)

    def of(self, cursors: set[Cursor]) -> list[Delivery]:
        """The unsettled deliveries of these partitions."""
        return [delivery for delivery, (cursor, _) in self._held.items() if cursor in cursors]

    def drop(self, cursor: Cursor) -> list[Delivery]:
        """Give up a partition; the deliveries that were unsettled are no longer ours."""
        self.cursors.remove(cursor)
        dropped = self.of({cursor})
        for delivery in dropped:
            del self._held[delivery]
            delivery.token = LOST
        return dropped

    def lost(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            self.notify(Lost(deliveries))
            self.wake()  # there is room again

    def _take(self, limit: int) -> list[Delivery]:
        limit = min(limit, self._prefetch - len(self._held))
        batch: list[Delivery] = []
        # Each partition is the first in turn, else a full one would starve the others.
        self._turn += 1
        for n in range(len(self.cursors)):
            if len(batch) >= limit:
                break
            cursor = self.cursors[(self._turn + n) % len(self.cursors)]
            batch += self._hand_out(cursor, limit - len(batch))
        return batch

    def _hand_out(self, cursor: Cursor, limit: int) -> list[Delivery]:
        batch = []
        offsets = cursor.take(limit)
        for offset in offsets:
            message, sent, _, topic = cursor.partition.records[offset]
            delivery = Delivery(
                message.body, message.attributes, message.headers, message.key, message.message_id,
                topic or self.source.name, sent, None, offset < cursor.seen, self,
            )  # fmt: skip
            batch.append(delivery)
            if offset >= cursor.seen:
                cursor.seen = offset + 1
        if self._options.at_most_once:
            for offset in offsets:
                cursor.complete(offset)
            cursor.partition.trim()
        else:
            for delivery, offset in zip(batch, offsets, strict=True):
                self._held[delivery] = (cursor, offset)
        return batch

    def _settle(self, deliveries: Sequence[Delivery], outcome: Outcome, delay: float) -> int:
        stale = 0
        due = self._clock.monotonic() + delay if delay > 0 else None
        touched: dict[Cursor, None] = {}
        for delivery in deliveries:
            place = self._held.pop(delivery, None)
            if place is None:
                # Ours and not held: settled before, which is no error.
                stale += delivery.token is not self
                continue
            cursor, offset = place
            touched[cursor] = None
            if outcome is Outcome.NACK:
                cursor.give_back(offset, due)
            else:
                cursor.complete(offset)
        for cursor in touched:
            cursor.partition.trim()
            if cursor.revoking and not cursor.in_flight:
                self._group.hand_over(cursor)
                self._group.rearm()
        if due is not None:
            self._group.due(due)
        self.wake()
        return stale

    def _extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        pass  # a log has no leases: a delivery is ours as long as its partition is

    def _leave(self) -> None:
        self._group.leave(self)

    def _waits(self, yes: bool) -> None:
        pass  # a partition wakes its owner

    def _pass_on(self) -> None:
        pass  # nobody else may take what is in our partitions

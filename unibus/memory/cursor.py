"""Where one group is in one partition: its low-water mark, and what is above it."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from unibus.memory.alarm import NEVER
from unibus.memory.log import Partition

if TYPE_CHECKING:
    from unibus.memory.log_subscription import LogSubscription


class Cursor:
    """A log has no acknowledgement of single messages: only `committed` outlives the owner.

    committed: everything below is done; it never goes back. position: what is handed out next.
    seen: the highest offset ever handed out, plus one. `_done` are the finished ones above the
    low-water mark, `_again` those given back, `_later` those given back for later.
    owner: the member that reads it. target: the member that shall. revoking: the owner was told to
    finish what it holds, until `deadline`, and gets nothing more.
    """

    __slots__ = (
        "_again", "_done", "_later", "_ordered", "committed", "deadline", "in_flight", "owner", "partition",
        "position", "revoking", "seen", "target",
    )  # fmt: skip

    def __init__(self, partition: Partition, committed: int, ordered: bool) -> None:
        self.partition = partition
        self.committed = committed
        self.position = committed
        self.seen = committed
        self.in_flight = 0
        self.owner: LogSubscription | None = None
        self.target: LogSubscription | None = None
        self.revoking = False
        self.deadline = NEVER
        self._ordered = ordered
        self._done: set[int] = set()
        self._again: list[int] = []
        self._later: list[tuple[float, int]] = []

    def take(self, limit: int) -> list[int]:
        """The offsets to hand out now, in order; what was given back comes first."""
        if self.revoking:
            return []
        taken: list[int] = []
        bound = self._bound()
        while self._again and len(taken) < limit and self._again[0] < bound:
            taken.append(heappop(self._again))
        if bound == NEVER:
            end = min(self.position + limit - len(taken), self.partition.end)
            taken += range(self.position, end)
            self.position = max(self.position, end)
        self.in_flight += len(taken)
        return taken

    def complete(self, offset: int) -> None:
        """Done; the low-water mark rises as far as nothing is missing below it."""
        self.in_flight -= 1
        done = self._done
        done.add(offset)
        while self.committed in done:
            done.remove(self.committed)
            self.committed += 1

    def give_back(self, offset: int, due: float | None) -> None:
        """Not done: handed out again, at `due` if given, and until then in the mark's way.

        While revoking that is for the next owner, who starts at the mark.
        """
        self.in_flight -= 1
        if due is None:
            heappush(self._again, offset)
        else:
            heappush(self._later, (due, offset))

    def resume(self, now: float) -> None:
        """What was given back for later and is due now is handed out again."""
        while self._later and self._later[0][0] <= now:
            heappush(self._again, heappop(self._later)[1])
            self.wake()

    def next_due(self) -> float:
        due = self._later[0][0] if self._later else NEVER
        return min(due, self.deadline) if self.revoking else due

    def restart(self) -> None:
        """Nobody holds anything: all above the low-water mark is to be handed out (again)."""
        self.revoking = False
        self.deadline = NEVER
        self.in_flight = 0
        self.position = self.committed
        self._done.clear()
        self._again.clear()
        self._later.clear()

    def wake(self) -> None:
        if self.owner is not None:
            self.owner.wake()

    def ready(self) -> int:
        return self.partition.end - self.position + len(self._again)

    def delayed(self) -> int:
        return len(self._later)

    def oldest(self) -> float | None:
        """When the oldest message that is ready was appended."""
        offset = min(self._again[0], self.position) if self._again else self.position
        record = self.partition.records.get(offset)
        return None if record is None else record[2]

    def _bound(self) -> float:
        """Only what is below may be handed out: in an ordered partition a message with a key that was
        given back for later holds up what comes after it."""
        if not self._ordered or not self._later:
            return NEVER
        records = self.partition.records
        return min((offset for _, offset in self._later if records[offset][0].key is not None), default=NEVER)

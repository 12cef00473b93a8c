"""What is ready in a queue, in order of arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush, merge
from typing import Protocol, TypeAlias, TypeVar

from unibus.driver import Outbound

Entry: TypeAlias = tuple[int, int, float, float, Outbound, str | None]
"""One stored message: its place in the queue, how often it was handed out, when it was sent
(seconds since 1970), when it became ready (monotonic), the message, and its topic if it has one.

A tuple, not a class: it is made once for each message and queue, and sorts by its place, which
is unique, without a call into Python.
"""

Holder: TypeAlias = object
"""Who holds deliveries: a subscription. The stores only compare them."""

H = TypeVar("H")


class Store(Protocol):
    """The ready part of a queue."""

    def add(self, entries: Sequence[Entry]) -> None:
        """New messages, behind all others."""

    def take(self, holder: Holder, limit: int) -> list[Entry]:
        """Up to `limit` messages that this holder may have, now in flight with it."""

    def done(self, holder: Holder, entries: Sequence[Entry]) -> None:
        """Settled for good."""

    def give_back(self, holder: Holder, entries: Sequence[Entry]) -> None:
        """Ready again, where they were before."""

    def hold_back(self, holder: Holder, entries: Sequence[Entry], due: float) -> None:
        """Given back for later: nobody gets them before `resume`."""

    def resume(self, entry: Entry) -> None:
        """What was held back is due."""

    def able(self, waiting: Iterable[H]) -> list[H]:
        """Those of the waiting, in their order, whom waking helps."""

    def forget(self, holder: Holder) -> None:
        """The holder is gone and holds nothing."""

    def ready(self) -> int:
        """How many are ready."""

    def oldest(self) -> Entry | None:
        """What has been ready for longest."""

    def __iter__(self) -> Iterator[Entry]:
        """What is ready, in order."""


class Fifo:
    """No order but that of arrival: any message may go to anybody.

    What is given back waits in a heap in front: all of it left the queue before what is still
    in there, so that the heap's last place is in front of the queue's first.
    """

    __slots__ = ("_back", "_fresh")

    def __init__(self) -> None:
        self._fresh: deque[Entry] = deque()
        self._back: list[Entry] = []

    def add(self, entries: Sequence[Entry]) -> None:
        self._fresh.extend(entries)

    def take(self, holder: Holder, limit: int) -> list[Entry]:
        back = self._back
        taken: list[Entry] = []
        while back and limit > 0:
            taken.append(heappop(back))
            limit -= 1
        popleft = self._fresh.popleft
        fresh = [popleft() for _ in range(min(limit, len(self._fresh)))]
        return taken + fresh if taken else fresh

    def done(self, holder: Holder, entries: Sequence[Entry]) -> None:
        pass

    def give_back(self, holder: Holder, entries: Sequence[Entry]) -> None:
        for entry in entries:
            heappush(self._back, entry)

    def hold_back(self, holder: Holder, entries: Sequence[Entry], due: float) -> None:
        pass  # whoever calls `resume` keeps them until then

    def resume(self, entry: Entry) -> None:
        heappush(self._back, entry)

    def able(self, waiting: Iterable[H]) -> list[H]:
        # One only: it wakes the next if it leaves anything.
        if self._fresh or self._back:
            for holder in waiting:
                return [holder]
        return []

    def forget(self, holder: Holder) -> None:
        pass

    def ready(self) -> int:
        return len(self._fresh) + len(self._back)

    def oldest(self) -> Entry | None:
        if self._back:
            return self._back[0]
        return self._fresh[0] if self._fresh else None

    def first(self) -> int | None:
        """The place of what comes next."""
        entry = self.oldest()
        return None if entry is None else entry[0]

    def __iter__(self) -> Iterator[Entry]:
        return merge(sorted(self._back), self._fresh)

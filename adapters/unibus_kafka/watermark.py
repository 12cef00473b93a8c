"""How far a partition is done: the first offset that is not, whatever is done beyond it. No input or output."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Watermark(Generic[T]):
    """Of one partition, for one time that it is assigned to us. Items are what was taken from it, by offset."""

    __slots__ = ("committed", "next", "unsettled")

    def __init__(self, committed: int | None = None, start: int | None = None) -> None:
        """start: where reading begins, if nothing is committed."""
        self.unsettled: dict[int, T] = {}
        """In the order of the offsets; what is given back stays in its place."""
        self.next: int | None = committed if committed is not None else start
        """The offset to read next."""
        self.committed = committed
        """None: nothing is, as far as we know."""

    def take(self, offset: int, item: T) -> None:
        """Offsets only grow; some are missing, where a log is compacted or has marks of transactions."""
        self.unsettled[offset] = item
        self.next = offset + 1

    def skip(self, offset: int) -> None:
        """Nobody is to have it."""
        self.next = offset + 1

    def give_back(self, offset: int, item: T) -> bool:
        """In its place. False: it was settled already."""
        if offset not in self.unsettled:
            return False
        self.unsettled[offset] = item
        return True

    def settle(self, offset: int) -> None:
        self.unsettled.pop(offset, None)

    @property
    def low(self) -> int | None:
        """All before it is done."""
        return next(iter(self.unsettled), self.next)

    @property
    def gap(self) -> int:
        """How far reading is ahead of what is done."""
        low = self.low
        return 0 if low is None or self.next is None else self.next - low

    @property
    def to_commit(self) -> int | None:
        """The watermark, if it is news."""
        low = self.low
        return low if low is not None and (self.committed is None or low > self.committed) else None

    def commit(self, offset: int) -> None:
        """It is committed. Never goes back."""
        self.committed = offset if self.committed is None else max(offset, self.committed)


def widest_gap(prefetch: int) -> int:
    """How far reading may be ahead of the first record that is not done: so much is read again after a crash."""
    return max(5000, 10 * prefetch)

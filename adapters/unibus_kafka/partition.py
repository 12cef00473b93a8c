"""One partition while it is assigned to us: what came and is not settled, and how far all is."""

from __future__ import annotations

from typing import Any

from unibus.driver import Delivery


class Partition:
    """A new one for each time that it comes to us from another member, so that what belongs to an
    earlier time settles nothing."""

    def __init__(self, tp: Any) -> None:
        self.tp = tp
        self.revoked = False
        self.kept_back: list[Delivery] = []
        """While it is being revoked: what nobody has in hand. It is handed out if the partition stays with us."""
        self.unsettled: dict[int, Delivery] = {}
        """By offset and in its order; what is given back stays in its place."""
        self._next: int | None = None
        self._committed: int | None = None

    def came(self, offset: int, delivery: Delivery) -> None:
        self.unsettled[offset] = delivery
        self._next = offset + 1

    @property
    def position(self) -> int | None:
        """What to read next."""
        return self._next

    def settled(self, offset: int) -> None:
        self.unsettled.pop(offset, None)

    @property
    def to_commit(self) -> int | None:
        """The first offset that is not done, if that is news."""
        if self._next is None:
            return None
        low = next(iter(self.unsettled), self._next)
        return low if self._committed is None or low > self._committed else None

    def committed(self, offset: int) -> None:
        """Never backwards."""
        self._committed = max(offset, self._committed or 0)

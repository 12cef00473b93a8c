"""One partition, while it is assigned to us."""

from __future__ import annotations

from aiokafka.structs import TopicPartition

from unibus.driver import Delivery
from unibus_kafka.lives import Lives
from unibus_kafka.metadata import UNKNOWN
from unibus_kafka.watermark import Watermark

SUSPECT = "unibusalone"
"""The attribute of a message that the core handles alone, since it may have taken its process down."""


class Partition:
    """A new one for each time that it comes to us from another member, so that what belongs to an earlier time
    settles nothing."""

    __slots__ = ("identity", "kept_back", "lives", "mark", "noted", "revoked", "tp")

    def __init__(
        self, tp: TopicPartition, committed: int | None, note: str, *, ordered: bool, start: int = 0,
        identity: bytes = UNKNOWN,
    ) -> None:  # fmt: skip
        """start: where reading begins, if nothing is committed. identity: of the topic."""
        self.tp = tp
        self.identity = identity
        self.mark: Watermark[Delivery] = Watermark(committed, start)
        begin = committed if committed is not None else start
        self.lives = Lives(note, begin, ordered=ordered)
        self.noted = begin
        """Up to here it is written down as handed out."""
        self.revoked = False
        self.kept_back: list[Delivery] = []
        """While it is being revoked: what nobody has in hand. It is handed out if the partition stays with us."""

    @property
    def is_beyond_note(self) -> bool:
        """Whether more is in hand than is written down."""
        mark = self.mark
        return mark.next is not None and mark.next > self.noted and bool(mark.unsettled)

    @property
    def note(self) -> str:
        mark = self.mark
        if mark.low is None or mark.next is None or not mark.unsettled:
            return ""
        return self.lives.note(mark.low, mark.next)

    def farewell(self, ready: set[Delivery]) -> str:
        """The note of a clean end. ready: what was not handed out again."""
        low = self.mark.low
        if low is None:
            return ""
        counted = 0
        if not self.lives.ordered and (first := self.mark.unsettled.get(low)) is not None:
            counted = (first.deliveries or 1) - (first in ready)
        return self.lives.farewell(low, counted)

"""How often a partition was in the hands of a process that died with it: Kafka counts no deliveries.

A note beside the group's committed offset says how many lives in a row began to hand out from this offset and did not
end cleanly, and how far they had come. It is written before the first record is handed out, and taken back at a clean
end. No input or output here.
"""

from __future__ import annotations

import re

_NOTE = re.compile(r"unibus1:(\d{1,6}):(\d{1,18})")


class Lives:
    """For one time that a partition is assigned to us.

    dead: lives that ended with [low, high) in hand. Where a count may convict, of a suspect and on an ordered source,
    it is told of the head alone, with which each of them began; of any other no more is known than that it was
    delivered before.
    """

    __slots__ = ("begun", "dead", "high", "low", "ordered")

    def __init__(self, note: str, low: int, *, ordered: bool) -> None:
        found = _NOTE.fullmatch(note)
        self.dead, self.high = (int(found[1]), int(found[2])) if found else (0, 0)
        self.low = low
        self.ordered = ordered
        self.begun = False
        """Whether this life is written down."""

    def deliveries(self, offset: int, *, suspect: bool) -> int:
        """The count of a record that is handed out for the first time in this life. suspect: its count convicts."""
        if not self.dead or not self.low <= offset < self.high:
            return 1
        return self.dead + 1 if offset == self.low or not (self.ordered or suspect) else 2

    def note(self, low: int, high: int) -> str:
        """While [low, high) is in hand. A mark that has moved begins anew: what it stands at did not kill."""
        if high <= low:
            return ""
        lives = self.dead + 1 if low == self.low else 1
        return f"unibus1:{lives}:{max(high, self.high if low == self.low else 0)}"

    def farewell(self, low: int, counted: int) -> str:
        """At a clean end. counted: how often what stands first was handed out in this life and given back; from two on
        it is remembered."""
        if counted > 1:
            return f"unibus1:{counted}:{low + 1}"
        return f"unibus1:{self.dead}:{self.high}" if self.dead and low == self.low else ""

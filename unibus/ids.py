"""Message ids (UUID version 7, RFC 9562) and time stamps, made together since both follow the clock."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from unibus.clock import Clock


class Stamps:
    """Time-ordered ids: random bits are drawn once a millisecond, a counter goes up within it.

    An id costs a third of one with random bits of its own, which `send_many` would feel.
    """

    __slots__ = ("_counter", "_millisecond", "_now", "_prefix", "time")

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now
        self._millisecond = -1
        self._prefix = ""
        self._counter = 0
        self.time = ""
        """RFC 3339 time of the latest id, in UTC, to the millisecond."""

    def next_id(self) -> str:
        millisecond = int(self._now() * 1000)
        if millisecond > self._millisecond:  # a clock set back keeps the latest: ids never go back
            self._renew(millisecond)
        self._counter += 1
        return f"{self._prefix}{self._counter:012x}"

    def _renew(self, millisecond: int) -> None:
        self._millisecond = millisecond
        random = int.from_bytes(os.urandom(10), "big")
        self._counter = random & 0x7FFF_FFFF_FFFF  # 47 bits: room to count up within 48
        high = random >> 48
        time = f"{millisecond & 0xFFFF_FFFF_FFFF:012x}"
        self._prefix = f"{time[:8]}-{time[8:]}-7{high & 0xFFF:03x}-{0x8000 | (high >> 12) & 0x3FFF:04x}-"
        self.time = rfc3339(millisecond / 1000)


def rfc3339(now: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

"""One timer for many due times."""

from __future__ import annotations

import math
from collections.abc import Callable

from unibus.driver import Clock, Timer

NEVER = math.inf


class Alarm:
    """Calls back once the earliest time asked for has come. Holds no timer while nothing is due."""

    __slots__ = ("_callback", "_clock", "_timer", "due")

    def __init__(self, clock: Clock, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self._timer: Timer | None = None
        self.due = NEVER

    def by(self, due: float) -> None:
        """Ring at `due` (monotonic) or earlier."""
        if due < self.due:
            self.set(due)

    def set(self, due: float) -> None:
        """Ring at `due` and at no other time; NEVER stops it."""
        if due == self.due:
            return
        self.stop()
        if due != NEVER:
            self.due = due
            self._timer = self._clock.call_later(due - self._clock.monotonic(), self._ring)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.due = NEVER

    def _ring(self) -> None:
        due, self.due, self._timer = self.due, NEVER, None
        if self._clock.monotonic() < due:  # an event loop may round to its clock's resolution
            self.set(due)
        else:
            self._callback()

"""A retry budget: how many retries a consumer may have for what it handles, so that they cannot become a storm."""

from __future__ import annotations

import logging
from collections import deque

from unibus.driver import Clock
from unibus.stats import ConsumerStats

logger = logging.getLogger("unibus.consumer")

WINDOW = 10.0
"""Seconds over which retries are compared with what was handled."""
FLOOR = 10
"""Retries in a window that are always within the budget, so that a quiet consumer may retry."""
_MARKS = 10
"""Marks of the counts within a window."""


class Budget:
    """Of one consumer. It looks at the counts when something fails, so that success costs nothing."""

    def __init__(self, name: str, stats: ConsumerStats, clock: Clock) -> None:
        self._name = name
        self._stats = stats
        self._clock = clock
        self._spent = 0
        self._over_at = float("-inf")
        self._marks: deque[tuple[float, float, int]] = deque([(clock.monotonic(), 0, 0)])
        """Time, what was handled and what was spent by then. One is older than the window, if any is."""

    def spend(self, share: float) -> bool:
        """Whether one more retry is within `share` of what was handled; if so, it is counted."""
        now = self._clock.monotonic()
        handled, spent = self._within_window(now)
        if spent < max(FLOOR, share * handled):
            self._spent += 1
            return True
        self._stats.over_budget += 1
        if now - self._over_at > WINDOW:
            logger.warning(
                "%s: retries are over their budget, %g %% of the %.0f messages handled within %g s; they wait longer",
                self._name, share * 100, handled, WINDOW,
            )  # fmt: skip
        self._over_at = now
        return False

    def _within_window(self, now: float) -> tuple[float, int]:
        """What was handled, and what was spent, within the window that ends now."""
        marks, handled, spent = self._marks, self._stats.handled, self._spent
        start = now - WINDOW
        if now - marks[-1][0] >= WINDOW / _MARKS:
            marks.append((now, handled, spent))
        while len(marks) > 1 and marks[1][0] <= start:
            marks.popleft()
        at, handled_then, spent_then = marks[0]
        if at <= start:
            # Successes are taken to have come evenly until the next mark; what was spent was spent beside its own.
            next_at, next_handled, spent_then = marks[1] if len(marks) > 1 else (now, handled, spent)
            handled_then += (start - at) / (next_at - at) * (next_handled - handled_then)
        return handled - handled_then, spent - spent_then

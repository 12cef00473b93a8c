"""When a worker that died may start again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """At most `budget` restarts in `window` seconds; the pause before each doubles, from `first` to `longest`.

    The budget is wide on purpose: a message that kills its worker is convicted only after several kills, and a
    broker may be away for a while.
    """

    first: float = 0.5
    longest: float = 30.0
    budget: int = 10
    window: float = 300.0


class Restarts:
    """The restarts of one worker. Times are monotonic seconds, given by the caller."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._recent: deque[float] = deque()

    def pause(self, now: float) -> float | None:
        """Count a death: how long to wait before the next start, or None when the budget is spent."""
        policy = self._policy
        while self._recent and now - self._recent[0] > policy.window:
            self._recent.popleft()
        if len(self._recent) >= policy.budget:
            return None
        self._recent.append(now)
        return float(min(policy.longest, policy.first * 2 ** (len(self._recent) - 1)))

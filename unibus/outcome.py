"""What a handler may raise to say how its message ends. Middlewares pass these on, the core acts on them."""

from __future__ import annotations

from asyncio import Future
from datetime import timedelta
from math import isfinite
from numbers import Real
from typing import TYPE_CHECKING

from unibus.errors import ConfigurationError

if TYPE_CHECKING:
    from unibus.turns import Turn

LONGEST_TURN = 3600.0
"""Seconds after which one that waits for its turn is looked at in any case."""


def seconds(duration: float | timedelta, asked: str) -> float:
    """A duration as float seconds. asked: where it was given, for the error.

    Raises ConfigurationError unless it is a finite number, 0 or more (a bool is none), or such a timedelta.
    """
    value = duration.total_seconds() if isinstance(duration, timedelta) else duration
    try:
        if isinstance(value, Real) and not isinstance(value, bool) and isfinite(value) and value >= 0:
            return float(value)
    except OverflowError:  # a whole number that no float can hold
        pass
    raise ConfigurationError(
        f"{asked}: {duration!r} is no duration; give a finite number of seconds that is not negative, or a timedelta"
    )


class Retry(Exception):
    """Handle the message again, after so many seconds (None: as the retry policy's backoff says).

    Counts as a failed attempt. `cause` is what made it fail, for the dead-letter record. Raises
    ConfigurationError for an `after` that is negative or no finite number: that is then the failure.
    """

    def __init__(self, after: float | timedelta | None = None, cause: BaseException | None = None) -> None:
        self.after = None if after is None else seconds(after, "Retry(after=…)")
        self.cause = cause
        super().__init__("retry" if self.after is None else f"retry after {self.after} s")


class Reject(Exception):
    """Do not try again: the message goes to the dead letters with this reason."""

    def __init__(self, reason: str = "rejected", cause: BaseException | None = None) -> None:
        self.reason = reason
        self.cause = cause
        super().__init__(reason)


class Drop(Exception):
    """Forget the message: it is settled without a record, and counted."""


class Postponed(Exception):
    """Not now: run it again after so many seconds at most, as soon as `until` is done, or when its turn comes.

    No attempt is spent.
    """

    def __init__(
        self, after: float = LONGEST_TURN, until: Future[object] | None = None, turn: Turn | None = None
    ) -> None:
        self.after = after
        self.until = until
        self.turn = turn
        super().__init__(f"postponed for {after} s" if turn is None else "postponed until its turn")

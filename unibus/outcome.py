"""What a handler may raise to say how its message ends. Middlewares pass these on, the core acts on them."""

from __future__ import annotations

from asyncio import Future
from datetime import timedelta


def seconds(duration: float | timedelta) -> float:
    """A duration as float seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


class Retry(Exception):
    """Handle the message again, after so many seconds (None: as the retry policy's backoff says).

    Counts as a failed attempt. `cause` is what made it fail, for the dead-letter record.
    """

    def __init__(self, after: float | timedelta | None = None, cause: BaseException | None = None) -> None:
        self.after = None if after is None else seconds(after)
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
    """Not now: run it again after so many seconds, or as soon as `until` is done. No attempt is spent."""

    def __init__(self, after: float, until: Future[object] | None = None) -> None:
        self.after = after
        self.until = until
        super().__init__(f"postponed for {after} s")

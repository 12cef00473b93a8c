"""Whether messages begin when a rate allows it."""

from __future__ import annotations

START = 1000.0
LATE = 0.005
"""Seconds: turns are rounded up to milliseconds."""


def punctual(times: list[float], limit: int, per: float, burst: int | None = None) -> bool:
    """Whether each began when the rate allows it: never earlier, and no more than the grain later."""
    burst = limit if burst is None else burst
    due = [max(0.0, (number - burst + 1) * per / limit) for number in range(len(times))]
    return all(-0.001 <= time - at <= LATE for time, at in zip(sorted(times), due, strict=True))

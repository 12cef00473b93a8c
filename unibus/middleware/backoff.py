"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias

from unibus.errors import ConfigurationError
from unibus.outcome import seconds

Backoff: TypeAlias = Callable[[int], float]
"""From the number of failures so far (1, 2, …) to seconds until the next attempt."""


@dataclass(frozen=True, slots=True)
class Exponential:
    """`first * factor ** (failures - 1)`, at most `max`; with full jitter uniformly between 0 and that."""

    first: float
    max: float
    factor: float
    jitter: Literal["full"] | None

    def longest(self, failures: int) -> float:
        # The exponent is capped so that an absurd count of failures cannot overflow a float.
        return min(self.max, self.first * self.factor ** min(failures - 1, 64))

    def __call__(self, failures: int) -> float:
        longest = self.longest(failures)
        return random.uniform(0, longest) if self.jitter == "full" else longest


@dataclass(frozen=True, slots=True)
class Constant:
    """The same wait every time."""

    wait: float

    def longest(self, failures: int) -> float:
        return self.wait

    def __call__(self, failures: int) -> float:
        return self.wait


def exponential(
    first: float | timedelta = 1.0,
    *,
    max: float | timedelta = 60.0,  # noqa: A002 - the word that a reader expects
    factor: float = 2.0,
    jitter: Literal["full"] | None = "full",
) -> Exponential:
    """Waits that double: `first` seconds, then twice that, up to `max`. Full jitter spreads them."""
    if seconds(first) < 0 or seconds(max) < seconds(first) or factor < 1:
        raise ConfigurationError(
            f"exponential({first}, max={max}, factor={factor}): needs 0 <= first <= max and factor >= 1"
        )
    if jitter not in ("full", None):
        raise ConfigurationError(f'exponential(jitter={jitter!r}): use "full" or None')
    return Exponential(seconds(first), seconds(max), factor, jitter)


def constant(wait: float | timedelta) -> Constant:
    """The same wait before every attempt, in seconds."""
    if seconds(wait) < 0:
        raise ConfigurationError(f"constant({wait}): a wait cannot be negative")
    return Constant(seconds(wait))


def longest_wait(backoff: Backoff, failures: int) -> float:
    """The most that the backoff may ask for after so many failures; a user's own is simply asked."""
    if isinstance(backoff, (Exponential, Constant)):
        return backoff.longest(failures)
    return float(backoff(failures))

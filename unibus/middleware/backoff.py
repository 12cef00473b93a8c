"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias

from unibus.errors import ConfigurationError
from unibus.outcome import seconds

Backoff: TypeAlias = Callable[[int], float | timedelta]
"""From the number of failures so far (1, 2, …) to seconds until the next attempt."""

Jitter: TypeAlias = Literal["full"] | None


@dataclass(frozen=True, slots=True)
class Exponential:
    """`first * factor ** (failures - 1)`, at most `max`; with full jitter uniformly between 0 and that."""

    first: float
    max: float
    factor: float
    jitter: Jitter

    def longest(self, failures: int) -> float:
        # Capped so that an absurd factor or count of failures cannot overflow a float.
        return min(self.max, self.first * min(self.factor, 1e4) ** min(failures - 1, 64))

    def __call__(self, failures: int) -> float:
        return _jittered(self.longest(failures), self.jitter)


@dataclass(frozen=True, slots=True)
class Linear:
    """`first + step * (failures - 1)`, at most `max`; with full jitter uniformly between 0 and that."""

    first: float
    step: float
    max: float
    jitter: Jitter

    def longest(self, failures: int) -> float:
        return min(self.max, self.first + self.step * (failures - 1))

    def __call__(self, failures: int) -> float:
        return _jittered(self.longest(failures), self.jitter)


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
    jitter: Jitter = "full",
) -> Exponential:
    """Waits that double: `first` seconds, then twice that, up to `max`. Full jitter spreads them.

    Raises ConfigurationError unless 0 <= first <= max and factor >= 1.
    """
    least, most = seconds(first, "exponential(first=…)"), seconds(max, "exponential(max=…)")
    if most < least or seconds(factor, "exponential(factor=…)") < 1:
        raise ConfigurationError(
            f"exponential({first}, max={max}, factor={factor}): needs 0 <= first <= max and factor >= 1"
        )
    return Exponential(least, most, factor, _checked(jitter, "exponential"))


def linear(
    first: float | timedelta = 1.0,
    *,
    step: float | timedelta | None = None,
    max: float | timedelta = 60.0,  # noqa: A002 - the word that a reader expects
    jitter: Jitter = "full",
) -> Linear:
    """Waits that grow evenly: `first` seconds, then `step` (default `first`) more each time, up to `max`.

    Full jitter spreads them. Raises ConfigurationError unless 0 <= first <= max and step >= 0.
    """
    least, most = seconds(first, "linear(first=…)"), seconds(max, "linear(max=…)")
    if most < least:
        raise ConfigurationError(f"linear({first}, max={max}): needs 0 <= first <= max")
    more = least if step is None else seconds(step, "linear(step=…)")
    return Linear(least, more, most, _checked(jitter, "linear"))


def constant(wait: float | timedelta) -> Constant:
    """The same wait before every attempt, in seconds. Raises ConfigurationError if it is negative."""
    return Constant(seconds(wait, "constant(…)"))


def next_wait(backoff: Backoff, failures: int) -> float:
    """What the backoff says, in seconds. Raises ConfigurationError where a user's function fails or says nonsense."""
    if isinstance(backoff, (Exponential, Linear, Constant)):
        return backoff(failures)
    return _asked(backoff, failures)


def longest_wait(backoff: Backoff, failures: int) -> float:
    """The most that the backoff may ask for after so many failures; a user's own is simply asked.

    Raises as `next_wait`.
    """
    if isinstance(backoff, (Exponential, Linear, Constant)):
        return backoff.longest(failures)
    return _asked(backoff, failures)


def _asked(backoff: Backoff, failures: int) -> float:
    name = getattr(backoff, "__qualname__", repr(backoff))
    try:
        wait = backoff(failures)
    except Exception as error:
        raise ConfigurationError(f"the backoff {name} failed for {failures} failures: {error!r}") from error
    return seconds(wait, f"the backoff {name} after {failures} failures")


def _jittered(longest: float, jitter: Jitter) -> float:
    return random.uniform(0, longest) if jitter == "full" else longest


def _checked(jitter: Jitter, function: str) -> Jitter:
    if jitter not in ("full", None):
        raise ConfigurationError(f'{function}(jitter={jitter!r}): use "full" or None')
    return jitter

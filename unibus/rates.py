"""Rates: how many messages may begin within a time. In the process; an adapter's store shares them between processes.

What is kept of a rate is one number, by GCRA of `pyrate_limiter`, which leaves the time to its caller and says how
long to wait together with its refusal.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from unibus.driver import Clock
from unibus.errors import MissingDependency

if TYPE_CHECKING:
    from pyrate_limiter import StateStore


@runtime_checkable
class RateStore(Protocol):
    """Keeps rates by their names. Found by a URL's scheme through the entry points `unibus.rates`."""

    async def open(self) -> None: ...

    async def take(self, name: str, amount: int, limit: int, per: float, burst: int) -> float:
        """0.0: so many may begin now. Else none of them was taken, and they might in so many seconds.

        limit: how many in `per` seconds. burst: how many of them at once, at least `amount`.
        """
        ...

    async def close(self) -> None: ...


class MemoryRates:
    """The rates of this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._states: dict[tuple[str, int, float, int], StateStore] = {}

    async def open(self) -> None:
        return None

    async def take(self, name: str, amount: int, limit: int, per: float, burst: int) -> float:
        from pyrate_limiter import GCRA, InMemoryStateStore, Rate

        state = self._states.get((name, limit, per, burst))
        if state is None:
            state = self._states[name, limit, per, burst] = InMemoryStateStore()
        rate = Rate(limit, round(per * 1000), burst)
        decision = state.check(GCRA(), [rate], int(self._clock.monotonic() * 1000), amount)
        assert not inspect.isawaitable(decision)
        return (decision.retry_after_ms or 0) / 1000

    async def close(self) -> None:
        return None


def require_library() -> None:
    """Raises MissingDependency."""
    try:
        import pyrate_limiter  # noqa: F401
    except ImportError as error:
        raise MissingDependency(
            f"@rate_limit needs a package that is not installed ({error}); "
            'install it with: pip install "unibus[resilience]"'
        ) from error

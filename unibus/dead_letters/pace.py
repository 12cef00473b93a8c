"""No more than so many a second."""

from __future__ import annotations

from unibus.clock import Clock
from unibus.errors import ConfigurationError


class Pace:
    """rate: letters a second, None for as fast as it goes."""

    def __init__(self, rate: float | None, clock: Clock) -> None:
        if rate is not None and not rate > 0:
            raise ConfigurationError(f"rate={rate:g}: a rate is a number of letters a second, above 0")
        self._rate = rate
        self._clock = clock
        self._free_at = clock.monotonic()

    def portion(self, most: int) -> int:
        """So many at once: a tenth of a second's, so that a rate of thousands still goes in batches."""
        return most if self._rate is None else max(1, min(most, int(self._rate / 10)))

    def within(self, seconds: float | None, most: int) -> int:
        """How many go in so many seconds; None is any time."""
        if self._rate is None or seconds is None:
            return most
        return max(1, min(most, int(self._rate * seconds)))

    async def take(self, count: int) -> None:
        """Wait until so many may go."""
        if self._rate is None or not count:
            return
        now = self._clock.monotonic()
        if self._free_at > now:
            await self._clock.sleep(self._free_at - now)
        self._free_at = max(self._free_at, now) + count / self._rate

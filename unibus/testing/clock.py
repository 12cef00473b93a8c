"""A clock that a test moves."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from datetime import UTC, datetime
from heapq import heappop, heappush

_START = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
_START_MONOTONIC = 1000.0

_ROUNDS = 50
"""Turns of the event loop after each timer. A loop does not tell when it has nothing more to do,
so that the clock gives it more turns than a chain of callbacks between two timers needs."""


class _Timer:
    """One entry of the heap, and after it is due the loop's handle."""

    __slots__ = ("_callback", "_context", "_handle", "cancelled", "due")

    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self.due = due
        self.cancelled = False
        self._callback = callback
        self._context = contextvars.copy_context()
        self._handle: asyncio.Handle | None = None

    def cancel(self) -> None:
        self.cancelled = True
        if self._handle is not None:
            self._handle.cancel()

    def fire(self) -> None:
        # Through the loop, so that an error goes where the errors of all timers go.
        self._handle = asyncio.get_running_loop().call_soon(self._callback, context=self._context)


class MovableClock:
    """Time stands still until a test moves it: no test waits, and no timer fires early.

    It starts on 2026-01-01 at midnight UTC, monotonic at 1000. `advance` fires on its way every
    timer that comes due, also those set meanwhile, with the clock at the time of each.
    """

    def __init__(self) -> None:
        self._monotonic = _START_MONOTONIC
        self._timers: list[tuple[float, int, _Timer]] = []
        self._ties = 0

    def now(self) -> float:
        return _START + (self._monotonic - _START_MONOTONIC)

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        over = asyncio.Event()
        timer = self.call_later(seconds, over.set)
        try:
            await over.wait()
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> _Timer:
        timer = _Timer(self._monotonic + max(seconds, 0.0), callback)
        self._ties += 1  # timers of one time fire in the order in which they were set
        heappush(self._timers, (timer.due, self._ties, timer))
        return timer

    def next_due(self) -> float | None:
        """When the next timer fires (monotonic), or None if there is none."""
        while self._timers and self._timers[0][2].cancelled:
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    async def advance(self, seconds: float) -> None:
        """Let `seconds` pass, timer by timer; between timers the program runs until it is quiet."""
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds} s")
        end = self._monotonic + seconds
        await self.quiet()
        while (due := self.next_due()) is not None and due <= end:
            await self._fire_next()
        self._monotonic = max(self._monotonic, end)
        await self.quiet()

    async def advance_to_next(self) -> bool:
        """Let time pass to the next timer and fire it; False if there is none."""
        await self.quiet()
        if self.next_due() is None:
            return False
        await self._fire_next()
        return True

    async def quiet(self) -> None:
        """Give the program time to do all that it can do without time passing."""
        for _ in range(_ROUNDS):
            await asyncio.sleep(0)

    async def _fire_next(self) -> None:
        due, _, timer = heappop(self._timers)
        self._monotonic = max(self._monotonic, due)
        timer.fire()
        await self.quiet()

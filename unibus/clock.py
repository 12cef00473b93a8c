"""Time as a part of the seam: one clock per Bus, so that a test can move it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """All waiting and all time stamps of the core and of the memory driver come from here."""

    def now(self) -> float:
        """Wall time, in seconds since 1970, UTC. For display and time stamps only."""

    def monotonic(self) -> float:
        """Seconds that never go back. For leases, delays and deadlines."""

    async def sleep(self, seconds: float) -> None: ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Run the callback on the running loop, never early."""


class SystemClock:
    """The real time."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        return asyncio.get_running_loop().call_later(max(seconds, 0.0), callback)

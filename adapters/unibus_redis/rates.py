"""Rates that processes share: a hash for each, which one script reads and moves on, and which ends by itself.

The script is the library's (GCRA), the connection is ours. Times are those of the callers, whose clocks must agree.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pyrate_limiter import GCRA, Rate, RedisStateStore

from unibus.driver import Clock, Url
from unibus.errors import NotOpen
from unibus_redis import keys
from unibus_redis.calls import Calls, Script
from unibus_redis.link import Argument
from unibus_redis.options import endpoint

if TYPE_CHECKING:
    from pyrate_limiter import StateStore

_KEY = f"{keys.TAG}.rate."


def connect_rates(url: Url, clock: Clock) -> RedisRates:
    """For the same schemes as `connect`."""
    return RedisRates(url, clock)


class _Client:
    """As much of redis-py's client as the library needs."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def register_script(self, text: str) -> Any:
        script = Script(text)

        async def run(keys: Sequence[str], args: Sequence[Argument], client: object) -> Any:
            return await self._calls.script(script, keys, args)

        return run


class RedisRates:
    """`@rate_limit(…, store="redis://…")`. Handlers that give one name and one rate share it."""

    def __init__(self, url: Url, clock: Clock) -> None:
        self._endpoint = endpoint(url)
        self._clock = clock
        self._calls: Calls | None = None
        self._states: dict[str, StateStore] = {}

    async def open(self) -> None:
        """Raises AccessDenied or ConnectionLost."""
        await self.close()
        calls = Calls(self._endpoint, self._clock)
        try:
            await calls.open()
        except BaseException:
            await calls.close()
            raise
        self._calls = calls

    async def close(self) -> None:
        calls, self._calls = self._calls, None
        self._states.clear()
        if calls is not None:
            await calls.close()

    async def take(self, name: str, amount: int, limit: int, per: float, burst: int) -> float:
        if self._calls is None:
            raise NotOpen("the store of rates is not open; call open() first")
        rate = Rate(limit, round(per * 1000), burst)
        key = f"{_KEY}{name}:{limit}:{rate.interval}:{burst}"
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = RedisStateStore(cast("Any", _Client(self._calls)), key)
        decision = state.check(GCRA(), [rate], int(self._clock.now() * 1000), amount)
        if inspect.isawaitable(decision):
            decision = await decision
        return (decision.retry_after_ms or 0) / 1000

"""Delayed messages, moved when they are due: by the server's clock, in one step each, by whoever looks first."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from unibus.driver import Clock
from unibus_redis import keys, scripts
from unibus_redis.calls import Calls

logger = logging.getLogger("unibus.redis")

_LOOK_EVERY = 0.2
"""Seconds at most from one look to the next: a message may have come that is due sooner than all others."""
_BATCH = 200
"""Messages that one step moves: the server does nothing else meanwhile."""
_LONGEST_PAUSE = 5.0


class Mover:
    """One task for all streams that are consumed here; none while there are none."""

    def __init__(self, calls: Calls, clock: Clock) -> None:
        self._calls = calls
        self._clock = clock
        self._streams: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, stream: str) -> None:
        self._streams[stream] = self._streams.get(stream, 0) + 1
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="unibus redis mover")

    async def remove(self, stream: str) -> None:
        left = self._streams.pop(stream, 0) - 1
        if left > 0:
            self._streams[stream] = left
        elif not self._streams:
            await self.close()

    async def forward(self) -> None:
        """For every stream of the server, until cancelled."""
        failures = 0
        while True:
            try:
                streams = await self._calls.command(keys.DELAYED_STREAMS, "SMEMBERS", keys.DELAYED_STREAMS)
                wait = await self._move_all([stream.decode() for stream in streams])
                failures = 0
            except Exception as error:  # whatever it is: what is due must not be forgotten
                failures, wait = self._failed(failures, error)
            await self._clock.sleep(wait)

    async def close(self) -> None:
        self._streams.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        failures = 0
        while self._streams:
            try:
                wait = await self._move_all(list(self._streams))
                failures = 0
            except Exception as error:  # as above
                failures, wait = self._failed(failures, error)
            await self._clock.sleep(wait)

    async def _move_all(self, streams: Iterable[str]) -> float:
        """Seconds until the next look. Raises once all were tried: one that fails holds up no other."""
        waits, failed = [_LOOK_EVERY], list[BaseException]()
        for answer in await asyncio.gather(*[self._move(stream) for stream in streams], return_exceptions=True):
            if isinstance(answer, BaseException):
                failed.append(answer)
            else:
                waits.append(answer)
        if failed:
            raise failed[0]
        return min(waits)

    async def _move(self, stream: str) -> float:
        arguments = [_BATCH]
        moved, following = await self._calls.script(scripts.MOVE, [stream, keys.delayed(stream)], arguments)
        if moved == _BATCH:
            return 0.0
        return _LOOK_EVERY if following < 0 else min(following / 1000, _LOOK_EVERY)

    def _failed(self, failures: int, error: Exception) -> tuple[int, float]:
        logger.debug("delayed messages could not be moved: %s", error)
        return failures + 1, min(_LOOK_EVERY * 2**failures, _LONGEST_PAUSE)

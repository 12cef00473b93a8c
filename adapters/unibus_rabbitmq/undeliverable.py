"""Looks after the queue of what was delayed for a queue that is gone: nobody else would notice that it fills."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from unibus.driver import Clock, Timer
from unibus_rabbitmq.faults import asked_to_end

logger = logging.getLogger("unibus.rabbitmq")

LOOK_EVERY = 30.0
"""Seconds."""


class Undeliverable:
    """count: how many lie there. tell: called with how many came since the last look."""

    def __init__(self, clock: Clock, count: Callable[[], Awaitable[int]], tell: Callable[[int], None]) -> None:
        self._clock = clock
        self._count = count
        self._tell = tell
        self._seen: int | None = None
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """From now on, until `stop`. Idempotent: call it with every delay."""
        if self._timer is None:
            self._look()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        self._timer = self._clock.call_later(LOOK_EVERY, self._look)
        self._task = asyncio.get_running_loop().create_task(self._compare(), name="unibus rabbitmq undeliverable")

    async def _compare(self) -> None:
        try:
            count = await self._count()
        except (Exception, asyncio.CancelledError) as error:
            if asked_to_end():
                raise
            logger.debug("cannot look after what is undeliverable: %r", error)
            return
        came = count - self._seen if self._seen is not None else 0
        self._seen = count
        if came > 0:
            self._tell(came)

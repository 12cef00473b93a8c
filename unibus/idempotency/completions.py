"""From handled to done: what comes while a call of the store runs is the next call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from unibus.cancellation import asked_to_end
from unibus.driver import Clock

logger = logging.getLogger("unibus.idempotency")

I = TypeVar("I")  # noqa: E741 - item

MOST = 1000
"""Keys of one call."""
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds until a call that failed is repeated: doubled each time."""


class Completions(Generic[I]):
    """Nobody waits here but by the future of a call. However often it fails, it is tried again while the bus runs:
    without it the message must not be acked.

    complete: one call of the store.
    """

    def __init__(self, complete: Callable[[list[I]], Awaitable[None]], clock: Clock) -> None:
        self._call = complete
        self._clock = clock
        self._items: list[I] = []
        self._done: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._resting = self._ending = False

    def add(self, item: I) -> asyncio.Future[None]:
        """The future of the call that it will be in; cancelled if it was given up."""
        self._items.append(item)
        if self._done is None:
            loop = asyncio.get_running_loop()
            self._done = loop.create_future()
            if self._task is None:
                self._task = loop.create_task(self._run(), name="unibus complete idempotency keys")
        return self._done

    async def end(self) -> None:
        """Let the calls under way be answered. What the store cannot take now is given up."""
        self._ending = True
        if self._task is not None and not self._resting:
            await asyncio.wait([self._task])
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def cut_off(self) -> None:
        """For tests: as if the process were gone."""
        self._items.clear()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        done = None
        try:
            while self._items and self._done is not None:
                items, done = self._items, self._done
                self._items, self._done = [], None
                for start in range(0, len(items), MOST):
                    await self._complete(items[start : start + MOST])
                done.set_result(None)
        finally:
            self._task = None
            for future in (done, self._done):
                if future is not None and not future.done():
                    future.cancel()

    async def _complete(self, items: list[I]) -> None:
        wait = FIRST_WAIT
        while True:
            try:
                await self._call(items)
                return
            except (Exception, asyncio.CancelledError) as error:
                if asked_to_end():
                    raise
                logger.warning("%d idempotency keys cannot be completed, again in %.0f s: %r", len(items), wait, error)
            if self._ending:
                raise asyncio.CancelledError
            self._resting = True
            await self._clock.sleep(wait)
            self._resting = False
            wait = min(wait * 2, LONGEST_WAIT)

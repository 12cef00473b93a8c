"""Calls that are in flight together become one: what comes while calls run is the next batch. No timer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from unibus.cancellation import asked_to_end
from unibus.errors import OutcomeUnknown

I = TypeVar("I")  # noqa: E741 - item
R = TypeVar("R")


SHARED = 16
"""What waits is shared between the calls from so many items for each on."""


class Coalescer(Generic[I, R]):
    """Feeds single items to a function that takes many and answers each. Idle it holds no task.

    calls: in flight at most; with two of them callers go on with the answers of one while the other is on its way.
    late: told the answer, None for a failure, of an item for which nobody waits any more.
    """

    def __init__(
        self,
        call: Callable[[list[I]], Awaitable[Sequence[R]]],
        most: int = 1000,
        calls: int = 1,
        late: Callable[[I, R | None], None] | None = None,
    ) -> None:
        self._call = call
        self._most = most
        self._calls = calls
        self._late = late
        self._waiting: list[tuple[I, asyncio.Future[R]]] = []
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, item: I) -> asyncio.Future[R]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, answer))
        if not self._scheduled and len(self._tasks) < self._calls:
            self._scheduled = True
            loop.call_soon(self._start)
        return answer

    async def flush(self) -> None:
        """Wait until nothing is waiting."""
        while self._tasks or self._waiting:
            if self._tasks:
                await asyncio.wait(set(self._tasks), return_when=asyncio.FIRST_COMPLETED)
            else:
                await asyncio.sleep(0)

    def _start(self) -> None:
        self._scheduled = False
        loop = asyncio.get_running_loop()
        while self._waiting and (free := self._calls - len(self._tasks)) > 0:
            share = -(-len(self._waiting) // free)
            most = min(max(share, SHARED), self._most)
            batch, self._waiting = self._waiting[:most], self._waiting[most:]
            task = loop.create_task(self._answer(batch))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not self._scheduled:
            self._start()

    async def _answer(self, batch: list[tuple[I, asyncio.Future[R]]]) -> None:
        try:
            results = await self._call([item for item, _ in batch])
        except (Exception, asyncio.CancelledError) as cause:
            if asked_to_end():
                for item, answer in batch:
                    answer.cancel()
                    self._tell_late(item, None)
                raise
            error = OutcomeUnknown("the call was cut off") if isinstance(cause, asyncio.CancelledError) else cause
            error.__cause__ = error.__cause__ or (cause if error is not cause else None)
            for item, answer in batch:
                if answer.done():
                    self._tell_late(item, None)
                else:
                    answer.set_exception(error)
                    answer.exception()  # a caller that was cancelled will not ask for it
            return
        for (item, answer), result in zip(batch, results, strict=True):
            if answer.done():
                self._tell_late(item, result)
            else:
                answer.set_result(result)

    def _tell_late(self, item: I, result: R | None) -> None:
        if self._late is not None:
            self._late(item, result)

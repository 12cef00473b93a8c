"""Calls that are in flight together become one: what comes while a call runs is the next batch. No timer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from unibus.cancellation import asked_to_end
from unibus.errors import OutcomeUnknown

I = TypeVar("I")  # noqa: E741 - item
R = TypeVar("R")


class Coalescer(Generic[I, R]):
    """Feeds single items to a function that takes many and answers each. One call at a time; idle it holds no task.

    late: told the answer, None for a failure, of an item for which nobody waits any more.
    """

    def __init__(
        self,
        call: Callable[[list[I]], Awaitable[Sequence[R]]],
        most: int = 1000,
        late: Callable[[I, R | None], None] | None = None,
    ) -> None:
        self._call = call
        self._most = most
        self._late = late
        self._waiting: list[tuple[I, asyncio.Future[R]]] = []
        self._task: asyncio.Task[None] | None = None

    def submit(self, item: I) -> asyncio.Future[R]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, answer))
        if self._task is None:
            self._task = loop.create_task(self._run())
        return answer

    async def flush(self) -> None:
        """Wait until nothing is waiting."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._answer(batch)
        finally:
            self._task = None

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

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
    """Feeds single items to a function that takes many and answers each. One call at a time; idle it holds no task."""

    def __init__(self, call: Callable[[list[I]], Awaitable[Sequence[R]]], most: int = 1000) -> None:
        self._call = call
        self._most = most
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
                for _, answer in batch:
                    answer.cancel()
                raise
            error = OutcomeUnknown("the call was cut off") if isinstance(cause, asyncio.CancelledError) else cause
            error.__cause__ = error.__cause__ or (cause if error is not cause else None)
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
                    answer.exception()  # a caller that was cancelled will not ask for it
            return
        for (_, answer), result in zip(batch, results, strict=True):
            if not answer.done():
                answer.set_result(result)

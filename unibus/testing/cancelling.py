"""Cancel a coroutine where it suspends, to find what a cancellation there loses."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class _Counted:
    """Awaits a coroutine; as it suspends for the k-th time its task asks itself to end."""

    def __init__(self, work: Coroutine[Any, Any, T], k: int) -> None:
        self._work = work
        self._left = k

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        sent: Any = None
        error: BaseException | None = None
        while True:
            try:
                suspended_on = inner.throw(error) if error is not None else inner.send(sent)
            except StopIteration as ended:
                return ended.value
            self._left -= 1
            if self._left == 0:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            sent = error = None
            try:
                sent = yield suspended_on
            except BaseException as thrown:
                error = thrown


async def cancelled_at(k: int, work: Coroutine[Any, Any, T]) -> tuple[bool, T | None]:
    """Run `work` in a task that is cancelled at its k-th suspension.

    Returns whether it ended by that, and else what it returned: it has fewer suspensions, or was
    past the point where it can be stopped.
    """

    async def run() -> T:
        result: T = await _Counted(work, k)
        return result

    task = asyncio.get_running_loop().create_task(run())
    await asyncio.wait([task])
    return (True, None) if task.cancelled() else (False, task.result())

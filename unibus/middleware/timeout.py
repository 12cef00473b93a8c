"""Timeout: a handler that runs too long is cancelled, and that is a failure like any other (TimeoutError).

All runs of one handler have the same limit, so their deadlines come in the order of their starts:
one list and one timer serve all of them, where `asyncio.timeout` would cost a timer per message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from unibus.driver import Clock, Timer
from unibus.errors import ConfigurationError
from unibus.lane import Lane, current_lane
from unibus.message import Message
from unibus.options import BatchHandler, BatchMiddleware, F, Handler, Middleware, Surroundings, record
from unibus.outcome import seconds


class _Run:
    """One run of the handler. `expired` is noted before the task is cancelled, so that it knows why."""

    __slots__ = ("deadline", "expired", "lane", "task")

    def __init__(self, task: asyncio.Task[Any], deadline: float) -> None:
        self.task = task
        self.lane: Lane | None = current_lane.get(None)
        self.deadline = deadline
        self.expired = False

    def expire(self) -> None:
        self.expired = True
        if self.lane is not None and self.lane.reason is None:
            self.lane.reason = "timeout"
        self.task.cancel()

    def end(self) -> None:
        """The run is over: take our request to cancel back, if we made one."""
        if self.expired:
            self.task.uncancel()
            if self.lane is not None and self.lane.reason == "timeout":
                self.lane.reason = None


class Deadlines:
    """The runs of one handler in the order of their deadlines, and one timer for the first."""

    def __init__(self, limit: float, clock: Clock) -> None:
        self._limit = limit
        self._clock = clock
        self._runs: dict[_Run, None] = {}  # in the order of their deadlines; what ended is taken out at once
        self._timer: Timer | None = None

    async def bound(self, awaitable: Awaitable[object]) -> object:
        task = asyncio.current_task()
        assert task is not None
        run = _Run(task, self._clock.monotonic() + self._limit)
        self._runs[run] = None
        if self._timer is None:
            self._timer = self._clock.call_later(self._limit, self._expire)
        try:
            return await awaitable  # a handler that swallows the cancellation has succeeded, if late
        except asyncio.CancelledError:
            # A request by somebody else beside ours means that the task is to end, too.
            if run.expired and run.task.cancelling() == 1:
                raise TimeoutError(f"the handler did not end within {self._limit} s") from None
            raise
        finally:
            self._runs.pop(run, None)
            run.end()

    def _expire(self) -> None:
        # The timer is not moved when a run ends: it is cheaper to find nothing once per limit.
        self._timer = None
        now = self._clock.monotonic()
        for run in list(self._runs):
            if run.deadline > now:
                self._timer = self._clock.call_later(run.deadline - now, self._expire)
                break
            del self._runs[run]
            run.expire()


@dataclass(frozen=True, slots=True)
class TimeoutOption:
    limit: float

    kind = "timeout"
    rank = 40

    def single(self, around: Surroundings) -> Middleware:
        deadlines = Deadlines(self.limit, around.clock)

        def wrap(inner: Handler) -> Handler:
            async def timeout(message: Message[Any]) -> object:
                return await deadlines.bound(inner(message))

            return timeout

        return wrap

    def batch(self, around: Surroundings) -> BatchMiddleware:
        deadlines = Deadlines(self.limit, around.clock)

        def wrap(inner: BatchHandler) -> BatchHandler:
            async def timeout(messages: Sequence[Message[Any]]) -> object:
                return await deadlines.bound(inner(messages))

            return timeout

        return wrap


def timeout(limit: float | timedelta) -> Callable[[F], F]:
    """Cancel a run of the handler after so many seconds; it then fails with TimeoutError.

    A `def` handler runs in a thread, which cannot be cancelled: its message stays held until the
    thread ends, and fails then.
    """
    option = TimeoutOption(seconds(limit, "timeout(…)"))
    if option.limit == 0:
        raise ConfigurationError(f"timeout({limit}): more than 0 seconds")
    return lambda function: record(function, option)

"""One connection with many requests in flight: answers come in the order of the requests.

A request that was written is never written again: its answer comes, or nobody knows what became of it. Cancelling
who waits harms nobody else: the answer is heard all the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import hiredis
from redis import exceptions as foreign
from redis.asyncio.connection import Connection

from unibus.driver import Clock, Timer
from unibus_redis.failures import Unreached, is_refusal
from unibus_redis.wire import Wire

Argument = str | bytes | int
Command = tuple[Argument, ...]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


def pack(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # typed as a tuple of one
    return packed


class _Request:
    """Some commands of one caller. `replies`: their answers so far, errors of the server among them."""

    __slots__ = ("answered", "deadline", "replies", "wanted")

    def __init__(self, wanted: int, deadline: float) -> None:
        self.wanted = wanted
        self.deadline = deadline
        self.replies: list[Any] = []
        self.answered: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def fail(self, error: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
            self.answered.exception()  # whoever was cancelled will not ask for it


class Link:
    """connect: makes a connection that stands. timeout: seconds within which an answer comes."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], timeout: float, clock: Clock) -> None:
        self._connect = connect
        self._timeout = timeout
        self._clock = clock
        self._wire: Wire | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._unanswered: deque[_Request] = deque()
        self._timer: Timer | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def in_flight(self) -> int:
        return len(self._unanswered)

    async def ready(self, within: float) -> None:
        """Return once there is a connection. within: seconds to go on trying, 0 for one attempt. Raises Unreached."""
        if self._wire is not None:
            if not self._wire.is_closing():
                return
            self._lose(foreign.ConnectionError("the connection is gone"))
        deadline, pause = self._clock.monotonic() + within, _FIRST_PAUSE
        while self._wire is None:
            error = await self._attempted(deadline if within else deadline + self._timeout)
            if error is None:
                continue
            if is_refusal(error) or self._closed or self._clock.monotonic() + pause > deadline:
                raise Unreached(error) from error
            await self._clock.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def exchange(self, commands: Sequence[Command], waits: float = 0.0) -> list[Any]:
        """The answers, in order; what the server has refused is an exception among them.

        waits: seconds that the server may take on purpose. Raises Unreached, or a foreign error if the answer is lost.
        """
        if self._wire is None or self._wire.is_closing():
            raise Unreached(foreign.ConnectionError("the connection is gone"))
        packed = [pack(command) for command in commands]
        request = _Request(len(packed), self._clock.monotonic() + self._timeout + waits)
        self._wire.write(packed)
        self._unanswered.append(request)
        if self._timer is None:
            self._timer = self._clock.call_later(self._timeout, self._look)
        return await request.answered

    def drop(self, reason: str) -> None:
        """Give the connection up; the next request makes another."""
        self._lose(foreign.ConnectionError(reason))

    async def close(self) -> None:
        self._closed = True
        self.drop("the driver is closed")
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait({self._attempt})
        if self._ending:
            await asyncio.wait(set(self._ending))

    # --- connecting -----------------------------------------------------------------------------------

    async def _attempted(self, deadline: float) -> Exception | None:
        """One attempt for all who wait; what went wrong."""
        if self._closed:
            return foreign.ConnectionError("the driver is closed")
        if self._attempt is None or self._attempt.done():
            self._attempt = asyncio.get_running_loop().create_task(self._establish(), name="unibus redis connect")
        attempt = self._attempt
        await asyncio.wait({attempt}, timeout=max(deadline - self._clock.monotonic(), 0.0))
        if not attempt.done():
            return foreign.TimeoutError("no connection in time")
        if attempt.cancelled():
            return foreign.ConnectionError("the driver is closed")
        error = attempt.exception()
        return error if isinstance(error, Exception) else None

    async def _establish(self) -> None:
        self._wire = Wire(await self._connect(), self._heard, self._lose)

    # --- working --------------------------------------------------------------------------------------

    def _heard(self, reply: Any) -> None:
        if not self._unanswered:
            self._lose(foreign.ConnectionError("an answer to no request"))
            return
        request = self._unanswered[0]
        request.replies.append(reply)
        if len(request.replies) == request.wanted:
            self._unanswered.popleft()
            if not request.answered.done():
                request.answered.set_result(request.replies)

    def _look(self) -> None:
        """Whether the oldest answer is overdue. One timer for all, and none while nothing is in flight."""
        self._timer = None
        if not self._unanswered:
            return
        left = self._unanswered[0].deadline - self._clock.monotonic()
        if left <= 0:
            self._lose(foreign.TimeoutError(f"no answer within {self._timeout:g} s"))
        else:
            self._timer = self._clock.call_later(left, self._look)

    def _lose(self, error: Exception) -> None:
        """What was written has no answer any more."""
        wire, self._wire = self._wire, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        unanswered = list(self._unanswered)
        self._unanswered.clear()
        for request in unanswered:
            request.fail(error)
        if wire is not None:
            wire.cut()
            ending = asyncio.get_running_loop().create_task(wire.close())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

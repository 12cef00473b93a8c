"""One connection with many requests in flight: answers come in the order of the requests.

A request that was written is never written again: its answer comes, or nobody knows what became of it. Cancelling
who waits harms nobody else, since one task writes and another reads.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import hiredis
from redis import exceptions as foreign
from redis.asyncio.connection import Connection

from unibus.driver import Clock, Timer
from unibus_redis.failures import FOREIGN, Unreached, is_answer, is_refusal

Argument = str | bytes | int
Command = tuple[Argument, ...]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


def pack(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # typed as a tuple of one
    return packed


class _Request:
    """Some commands of one caller. `replies`: their answers so far, errors of the server among them."""

    __slots__ = ("answered", "deadline", "packed", "replies", "wanted")

    def __init__(self, packed: list[bytes], deadline: float) -> None:
        self.packed = packed
        self.wanted = len(packed)
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
        self._connection: Connection | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._unwritten: deque[_Request] = deque()
        self._unanswered: deque[_Request] = deque()
        self._work: asyncio.Future[None] | None = None
        self._timer: Timer | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def in_flight(self) -> int:
        return len(self._unwritten) + len(self._unanswered)

    async def ready(self, within: float) -> None:
        """Return once there is a connection. within: seconds to go on trying, 0 for one attempt. Raises Unreached."""
        if self._connection is not None:
            return
        deadline, pause = self._clock.monotonic() + within, _FIRST_PAUSE
        while self._connection is None:
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
        if self._connection is None:
            raise Unreached(foreign.ConnectionError("the connection is gone"))
        packed = [pack(command) for command in commands]
        request = _Request(packed, self._clock.monotonic() + self._timeout + waits)
        self._unwritten.append(request)
        if self._work is not None and not self._work.done():
            self._work.set_result(None)
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
        connection = await self._connect()
        connection.socket_timeout = None  # ours runs for all that is in flight
        self._connection = connection
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._write(connection), name="unibus redis writer"),
            loop.create_task(self._read(connection), name="unibus redis reader"),
        ]

    # --- working --------------------------------------------------------------------------------------

    async def _write(self, connection: Connection) -> None:
        while True:
            if not self._unwritten:
                self._work = asyncio.get_running_loop().create_future()
                await self._work
            packed: list[bytes] = []
            while self._unwritten:
                request = self._unwritten.popleft()
                packed += request.packed
                request.packed = []
                self._unanswered.append(request)
            try:
                await connection.send_packed_command(packed, check_health=False)
            except FOREIGN as error:
                self._lose(error)
                return

    async def _read(self, connection: Connection) -> None:
        try:
            while True:
                try:
                    reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
                except foreign.RedisError as error:
                    if not is_answer(error) or not self._unanswered:
                        raise
                    reply = error
                request = self._unanswered[0]
                request.replies.append(reply)
                if len(request.replies) == request.wanted:
                    self._unanswered.popleft()
                    if not request.answered.done():
                        request.answered.set_result(request.replies)
        except (*FOREIGN, IndexError) as error:
            self._lose(error if isinstance(error, FOREIGN) else foreign.ConnectionError("an answer to no request"))

    def _look(self) -> None:
        """Whether the oldest answer is overdue. One timer for all, and none while nothing is in flight."""
        self._timer = None
        oldest = next(iter(self._unanswered or self._unwritten), None)
        if oldest is None:
            return
        left = oldest.deadline - self._clock.monotonic()
        if left <= 0:
            self._lose(foreign.TimeoutError(f"no answer within {self._timeout:g} s"))
        else:
            self._timer = self._clock.call_later(left, self._look)

    def _lose(self, error: Exception) -> None:
        """What was written has no answer any more, what was not has never left."""
        connection, self._connection = self._connection, None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for request in self._unanswered:
            request.fail(error)
        for request in self._unwritten:
            request.fail(Unreached(error))
        self._unanswered.clear()
        self._unwritten.clear()
        if connection is not None:
            ending = asyncio.get_running_loop().create_task(self._end(connection, self._tasks))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            self._tasks = []

    async def _end(self, connection: Connection, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await connection.disconnect(nowait=True)

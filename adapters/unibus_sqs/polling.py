"""Polling: calls that wait for messages, and are never cut off but by a kill.

What a poll takes after its caller has gone would be invisible for a whole lease, with nobody. An idle consumer has one
poll in flight; one that is brought full batches has more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias

from unibus.driver import Blocked, Clock, Disconnected, DriverEvent, Inbox, Reconnected, Unblocked
from unibus.errors import ConnectionLost, DestinationNotFound, DriverError, Throttled
from unibus_sqs.failures import FOREIGN, code_of, translate
from unibus_sqs.limits import BATCH, MAX_IN_FLIGHT

Receive: TypeAlias = Callable[[int], Awaitable[Any]]
"""One long poll for so many messages, as the client answers."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds before the next poll after one that failed: doubled each time."""
SHORT_PAUSE = 0.1
"""Seconds before the next poll after one that brought nothing, where polls do not wait themselves."""
HELD_LOOK = 0.02
"""Seconds between looks whether the last poll was answered."""
IDLE = 3600.0
"""Seconds after which a wait for somebody who wants messages looks up; only a bound."""


class Polling:
    """The tasks of one subscription. accept: what is done with messages; restore: mends a queue that is gone.
    pause: seconds after a poll that brought nothing. polls: in flight at most."""

    def __init__(
        self,
        inbox: Inbox,
        receive: Receive,
        accept: Callable[[Sequence[Any], float | None], Awaitable[None]],
        restore: Callable[[], Awaitable[None]],
        notify: Callable[[DriverEvent], None],
        clock: Clock,
        *,
        pause: float,
        polls: int,
    ) -> None:
        self._inbox = inbox
        self._empty_pause = pause
        self._polls = polls
        self._receive = receive
        self._accept = accept
        self._restore = restore
        self._notify = notify
        self._clock = clock
        self._lead: asyncio.Task[None] | None = None
        self._others: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._held = False
        self._requested = 0
        """Messages that the polls in flight may bring."""
        self._full = False
        """Whether the last poll brought all that it asked for."""
        self._failures = 0
        self._trouble: DriverEvent | None = None

    def start(self, what: str) -> None:
        self._lead = asyncio.get_running_loop().create_task(self._run(), name=f"unibus sqs poll {what}")

    async def hold(self, held: bool) -> None:
        """Held, no poll begins; returns once those in flight are answered."""
        self._held = held
        while self._held and (self._in_flight or self._others) and not self._inbox.ended:
            await self._clock.sleep(HELD_LOOK)

    async def ended(self) -> None:
        """Returns once the last poll has been answered. The inbox has ended before."""
        if tasks := self._tasks():
            await asyncio.wait(tasks)

    async def cut_off(self) -> None:
        for task in self._tasks():
            task.cancel()
        await self.ended()

    def _tasks(self) -> set[asyncio.Task[None]]:
        return self._others | ({self._lead} if self._lead is not None else set())

    async def _run(self) -> None:
        while not self._inbox.ended:
            if self._held:
                await self._pause(SHORT_PAUSE)
                continue
            if self._wanted() <= 0:
                await self._inbox.wait_until_wanted(IDLE)
                continue
            self._start_others()
            await self._poll(min(BATCH, self._wanted()))

    def _wanted(self) -> int:
        return self._inbox.wanted - self._requested

    def _start_others(self) -> None:
        """Whole batches only: a call for a message or two costs as much as one for ten."""
        while self._full and self._wanted() >= 2 * BATCH and len(self._others) < self._polls - 1:
            task = asyncio.get_running_loop().create_task(self._poll(BATCH), name="unibus sqs poll")
            self._requested += BATCH
            self._others.add(task)
            task.add_done_callback(self._other_ended)

    def _other_ended(self, task: asyncio.Task[None]) -> None:
        self._others.discard(task)
        self._requested -= BATCH

    async def _poll(self, most: int) -> None:
        self._in_flight += 1
        try:
            await self._poll_once(most)
        finally:
            self._in_flight -= 1

    async def _poll_once(self, most: int) -> None:
        try:
            answer = await self._receive(most)
            messages = answer.get("Messages", ())
            self._full = len(messages) >= most
            await self._accept(messages, _time_of(answer))
        except FOREIGN as error:
            await self._failed(translate(error, "polling"), code_of(error))
        except DriverError as error:
            await self._failed(error, "")
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise
            # A bug, or a cancellation that the client let slip: the consumer must not fall silent.
            await self._failed(ConnectionLost(f"polling: {error!r}"), "")
        else:
            self._well()
            if not messages and self._empty_pause > 0:
                await self._pause(self._empty_pause)

    def _well(self) -> None:
        self._failures = 0
        if self._trouble is not None:
            self._notify(Unblocked() if isinstance(self._trouble, Blocked) else Reconnected())
            self._trouble = None

    async def _failed(self, error: DriverError, code: str) -> None:
        self._full = False
        if self._inbox.ended:
            return
        if isinstance(error, Throttled):
            self._tell(Blocked(_why(error, code)))
        else:
            self._tell(Disconnected(str(error)))
        self._failures += 1
        if isinstance(error, DestinationNotFound):
            try:
                await self._restore()
            except DriverError as still:
                self._tell(Disconnected(str(still)))
        await self._pause(min(FIRST_PAUSE * 2 ** min(self._failures, 10), LONGEST_PAUSE))

    def _tell(self, trouble: DriverEvent) -> None:
        if self._trouble is None:
            self._trouble = trouble
            self._notify(trouble)

    async def _pause(self, seconds: float) -> None:
        """Less if the subscription ends."""
        until = self._clock.monotonic() + seconds
        while not self._inbox.ended and (left := until - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left, SHORT_PAUSE))


def _why(error: Throttled, code: str) -> str:
    if code == "OverLimit":
        return f"{MAX_IN_FLIGHT:,} messages of the queue are received and not settled, which is SQS's limit: {error}"
    return str(error)


def _time_of(answer: Any) -> float | None:
    """The server's clock, in whole seconds since 1970."""
    told = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return parsedate_to_datetime(told).timestamp() if told else None
    except ValueError:
        return None

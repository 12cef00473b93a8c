"""For drivers: what came from the broker and is not settled yet, where the client pushes or polls in a task of its own.

`put` fills it, `receive` empties it as the seam promises, and between `begin` and `done` a delivery
is on its way back. Buffered + held + being settled never exceed the prefetch as long as `put` is
given no more than `room`. A poll takes no more than is `wanted`: where the broker counts deliveries,
what is read ahead would be counted with what is handled, and a message that kills its process would
take the innocent along.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from unibus.clock import Clock
from unibus.errors import ConnectionLost, NotOpen

LOST = "lost"
"""The token of a delivery that was taken from its holder."""


class Inbox:
    """One subscription's deliveries. what: how errors call the subscription."""

    def __init__(self, what: str, prefetch: int, clock: Clock) -> None:
        self.ready: deque[Any] = deque()
        self.held: dict[Any, None] = {}
        self._what = what
        self._prefetch = prefetch
        self._clock = clock
        self._settling: dict[Any, None] = {}
        self._left: dict[Any, None] = {}
        self._ended: Exception | None = None
        self._asked = 0
        self._receiver: asyncio.Future[None] | None = None
        self._filler: asyncio.Future[None] | None = None

    @property
    def room(self) -> int:
        """How many more may come."""
        return self._prefetch - len(self.ready) - len(self.held) - len(self._settling)

    @property
    def wanted(self) -> int:
        """How many more the receive under way would take."""
        return max(0, min(self.room, self._asked - len(self.ready)))

    @property
    def busy(self) -> bool:
        """Whether the core has some that are not settled."""
        return bool(self.held or self._settling)

    @property
    def ended(self) -> bool:
        return self._ended is not None

    # --- from the broker ------------------------------------------------------------------------------

    def put(self, deliveries: Iterable[Any]) -> None:
        self.ready.extend(deliveries)
        if self.ready:
            _wake(self._receiver)

    async def wait_for_room(self, seconds: float) -> None:
        """Return once there is room, after so many seconds, or at the end."""
        if self.room <= 0 and self._ended is None:
            self._filler = asyncio.get_running_loop().create_future()
            await self._wait(self._filler, seconds)
        else:
            await asyncio.sleep(0)  # a loop around this must not hold up what would end it

    async def wait_until_wanted(self, seconds: float) -> None:
        """Return once a receive wants more and there is room, after so many seconds, or at the end."""
        if self.wanted <= 0 and self._ended is None:
            self._filler = asyncio.get_running_loop().create_future()
            await self._wait(self._filler, seconds)
        else:
            await asyncio.sleep(0)  # a loop around this must not hold up what would end it

    def lose(self, deliveries: Iterable[Any]) -> list[Any]:
        """They are no longer ours. Returns those that the core knows of: what `Lost` has to name."""
        told = []
        for delivery in list(deliveries):
            if delivery in self.held:
                del self.held[delivery]
                told.append(delivery)
            elif delivery in self.ready:
                self.ready.remove(delivery)
            else:
                continue  # settled, or about to be: the broker says what became of it
            delivery.token = LOST
        _wake(self._filler)
        return told

    def end(self, reason: Exception | None = None) -> list[Any]:
        """Nothing more is received: `reason`, NotOpen by default, is raised. Returns what was not settled."""
        if self._ended is not None:
            return []
        self._ended = reason or NotOpen(f"the subscription to {self._what} is closed")
        left = [*self.held, *self.ready]
        self._left = dict.fromkeys(left)
        self.held.clear()
        self.ready.clear()
        _wake(self._receiver)
        _wake(self._filler)
        return left

    # --- to the core ----------------------------------------------------------------------------------

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Any]:
        """What is there, else what comes first. Cancelling it loses nothing: taking awaits nothing."""
        self.check_live()
        if self._receiver is not None:
            raise RuntimeError(f"the subscription to {self._what} has a receive under way; one at a time")
        if not self._available and max_wait > 0:
            self._receiver = asyncio.get_running_loop().create_future()
            self._asked = max_messages
            _wake(self._filler)
            try:
                await self._wait(self._receiver, max_wait)
            finally:
                self._receiver = None
                self._asked = 0
            if isinstance(self._ended, ConnectionLost):
                self.check_live()
        batch = [self.ready.popleft() for _ in range(min(max_messages, self._available))]
        self.held.update(dict.fromkeys(batch))
        return batch

    @property
    def _available(self) -> int:
        """A client may bring more than there was room for; that stays here."""
        return max(0, min(len(self.ready), self._prefetch - len(self.held) - len(self._settling)))

    def check_live(self) -> None:
        """Raises why it has ended, anew: one exception raised many times would collect every traceback."""
        if self._ended is not None:
            raise type(self._ended)(*self._ended.args)

    def check_connected(self) -> None:
        """For settling, which a closed subscription answers with SettlementLost."""
        if isinstance(self._ended, ConnectionLost):
            self.check_live()

    # --- settling -------------------------------------------------------------------------------------

    def begin(self, deliveries: Iterable[Any]) -> tuple[list[Any], int]:
        """Those to settle now, and how many were lost. Settled already, or in another call: neither."""
        ours, stale = [], 0
        for delivery in deliveries:
            if delivery in self.held:
                del self.held[delivery]
                self._settling[delivery] = None
                ours.append(delivery)
            elif delivery.token is LOST or delivery in self._left:
                stale += 1
        return ours, stale

    def done(self, deliveries: Iterable[Any]) -> None:
        for delivery in deliveries:
            self._settling.pop(delivery, None)
        _wake(self._filler)
        if self.ready:
            _wake(self._receiver)

    def failed(self, deliveries: Iterable[Any]) -> None:
        """The call did not reach the broker, or did not answer: held as before, to be settled again."""
        for delivery in deliveries:
            if self._settling.pop(delivery, self) is not self and self._ended is None:
                self.held[delivery] = None

    async def _wait(self, waiter: asyncio.Future[None], seconds: float) -> None:
        timer = self._clock.call_later(seconds, _waker(waiter))
        try:
            await waiter
        finally:
            timer.cancel()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _waker(waiter: asyncio.Future[None]) -> Callable[[], None]:
    return lambda: _wake(waiter)

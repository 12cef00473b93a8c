"""What was received and is not in a lane's hands yet, and the lanes that wait for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container, Iterable

from unibus.driver import Clock, Delivery


class Buffer:
    """`on_empty` is called when a lane finds nothing: worth a fetch, however few places are free."""

    def __init__(self, clock: Clock, on_empty: Callable[[], None]) -> None:
        self.items: deque[Delivery] = deque()
        self._clock = clock
        self._on_empty = on_empty
        self._idle: deque[asyncio.Future[None]] = deque()
        self._pausing = 0

    def put(self, deliveries: Iterable[Delivery]) -> None:
        self.items.extend(deliveries)
        self.wake()

    def put_first(self, delivery: Delivery) -> None:
        self.items.appendleft(delivery)
        self.wake()

    def take_out(self, deliveries: Container[Delivery]) -> list[Delivery]:
        """Remove these; returns those that were there."""
        taken = [delivery for delivery in self.items if delivery in deliveries]
        if taken:
            kept = [delivery for delivery in self.items if delivery not in deliveries]
            self.items.clear()
            self.items.extend(kept)
        return taken

    def wake(self) -> None:
        """Wake one lane, and more only if it has not emptied the buffer when its handler suspends."""
        if self.items and not self._pausing and self._wake_one():
            asyncio.get_running_loop().call_soon(self._wake_rest)

    def wake_all(self) -> None:
        """Let every waiting lane look around: the consumer stops."""
        while self._wake_one():
            pass

    def _wake_one(self) -> bool:
        while self._idle:
            lane = self._idle.popleft()
            if not lane.done():
                lane.set_result(None)
                return True
        return False

    def _wake_rest(self) -> None:
        if self._pausing:
            return  # whoever pauses goes on in a moment
        for _ in range(len(self.items)):
            if not self._wake_one():
                return

    def is_paused(self) -> bool:
        """Whether a lane lets others run, and goes on in a moment."""
        return self._pausing > 0

    async def pause(self) -> None:
        """Let others of the loop run, in a lane whose handler did not suspend: a second lane would gain nothing."""
        self._pausing += 1
        try:
            await asyncio.sleep(0)
        finally:
            self._pausing -= 1
            if self.items and self._idle:
                asyncio.get_running_loop().call_soon(self._wake_rest)

    async def wait(self, max_wait: float | None = None) -> None:
        """Wait until there may be something, at most `max_wait` seconds."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(woken)
        self._on_empty()

        def give_up() -> None:
            if not woken.done():
                woken.set_result(None)

        timer = self._clock.call_later(max_wait, give_up) if max_wait is not None else None
        try:
            await woken
        except asyncio.CancelledError:
            if woken.done() and not woken.cancelled():
                self.wake()  # the call was for a lane that goes away
            raise
        finally:
            if timer is not None:
                timer.cancel()

"""Whose turn it is, among the messages of one consumer that wait for a rate: first come, first served, with one timer.

The first in line alone is called, when there should be room for it, and asks; who is refused is the first again. So a
store that others use, too, is asked about as often as it grants something, and nobody overtakes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from unibus.driver import Clock, Delivery, Timer
from unibus.stats import ConsumerStats

_SOON = 1e-6
"""Seconds: what is due within them is due now, whatever floats make of a sum."""


class Turn:
    """The place of one message in the line.

    called: done when it may ask again. given_up: to be called when the message is gone. on_time: nothing is amiss.
    """

    __slots__ = ("called", "given_up", "on_time")

    def __init__(self, given_up: Callable[[], None], on_time: bool) -> None:
        self.called: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.given_up = given_up
        self.on_time = on_time


class Turns:
    """take: asks for so many at once, at most `burst`; 0.0 grants them, else it says when to ask again.

    every: seconds from one turn to the next, while nobody else takes any.
    """

    def __init__(
        self, take: Callable[[int], Awaitable[float]], every: float, burst: int, clock: Clock, stats: ConsumerStats
    ) -> None:
        self._take = take
        self._every = every
        self._burst = burst
        self._clock = clock
        self._stats = stats
        self._line: OrderedDict[Delivery, Turn] = OrderedDict()
        self._called: set[Delivery] = set()
        self._due = 0.0
        """When the next one in line is called."""
        self._timer: Timer | None = None
        self._timer_at = 0.0

    async def ask(self, deliveries: Sequence[Delivery], on_time: Callable[[], bool]) -> list[Turn | None]:
        """For each None, if it may begin, else its turn. on_time: whether a refusal was in the order of things."""
        asking = [delivery for delivery in deliveries if delivery in self._called]
        if not self._line and len(asking) == len(self._called):
            asking += [delivery for delivery in deliveries if delivery not in self._called]
        granted = set(asking)
        if asking:
            taken, wait = await self._take_most(len(asking))
            granted = set(asking[:taken])
            if taken < len(asking):
                self._refused(asking[taken:], wait, on_time())
        self._called -= granted
        self._stand_in_line([delivery for delivery in deliveries if delivery not in granted], True)
        if self._line:
            self._set_timer()
        return [None if delivery in granted else self._line[delivery] for delivery in deliveries]

    async def _take_most(self, wanted: int) -> tuple[int, float]:
        """How many may begin now, and in how many seconds the next one might."""
        taken, size = 0, min(wanted, self._burst)
        while taken < wanted:
            wait = await self._take(size)
            if wait == 0:
                taken += size
                size = min(size, wanted - taken)
            elif size == 1:
                return taken, wait
            else:
                size //= 2
        return taken, 0.0

    def _refused(self, deliveries: Sequence[Delivery], wait: float, on_time: bool) -> None:
        """Who was called is at the head of the line again, in the same order; who is new stands behind."""
        for delivery in reversed([delivery for delivery in deliveries if delivery in self._called]):
            self._called.discard(delivery)
            self._line[delivery] = self._turn(delivery, on_time)
            self._line.move_to_end(delivery, last=False)
        self._stand_in_line(deliveries, on_time)
        self._due = self._clock.monotonic() + wait

    def _stand_in_line(self, deliveries: Sequence[Delivery], on_time: bool) -> None:
        """Behind all others, unless they stand there already."""
        if deliveries and not self._line:
            self._due = max(self._due, self._clock.monotonic())
        for delivery in deliveries:
            if delivery not in self._line:
                self._line[delivery] = self._turn(delivery, on_time)
                self._stats.rate_limited += 1

    def _turn(self, delivery: Delivery, on_time: bool) -> Turn:
        return Turn(lambda: self._give_up(delivery), on_time)

    def _give_up(self, delivery: Delivery) -> None:
        self._line.pop(delivery, None)
        self._called.discard(delivery)
        if not self._line and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            if self._timer_at == self._due:
                return
            self._timer.cancel()
        self._timer_at = self._due
        self._timer = self._clock.call_later(max(self._due - self._clock.monotonic(), 0.0), self._call)

    def _call(self) -> None:
        """Call those who are due, so that the first comes first: each goes in front of what its consumer has ready."""
        self._timer = None
        now, called = self._clock.monotonic(), list[Turn]()
        while self._line and self._due <= now + _SOON:
            delivery, turn = self._line.popitem(last=False)
            self._called.add(delivery)
            called.append(turn)
            self._due += self._every
        for turn in reversed(called):
            turn.called.set_result(None)
        if self._line:
            self._set_timer()

"""What waits inside a consumer: unsettled, holding no lane, with one timer for all."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from unibus.driver import Clock, Delivery, Timer

SLACK = 64
"""Stale entries of the heap that are not worth the work of dropping them."""


class Waiting:
    """Deliveries with the time when they go on; `due` is called with each as its time comes."""

    def __init__(self, clock: Clock, due: Callable[[Delivery], None]) -> None:
        self._clock = clock
        self._due = due
        self._heap: list[tuple[float, int, Delivery]] = []
        self._when: dict[Delivery, tuple[float, int]] = {}
        self._order = itertools.count()
        self._timer: Timer | None = None
        self._timer_at = float("inf")

    def __len__(self) -> int:
        return len(self._when)

    def __contains__(self, delivery: Delivery) -> bool:
        return delivery in self._when

    def add(self, delivery: Delivery, seconds: float) -> None:
        at, order = self._clock.monotonic() + max(seconds, 0.0), next(self._order)
        self._when[delivery] = (at, order)
        heapq.heappush(self._heap, (at, order, delivery))
        if len(self._heap) > 2 * len(self._when) + SLACK:
            self._drop_stale()
        self._set_timer()

    def remaining(self, delivery: Delivery) -> float:
        """Seconds that it would still wait."""
        return max(self._when[delivery][0] - self._clock.monotonic(), 0.0)

    def release(self, delivery: Delivery) -> None:
        """Let it go on now, if it still waits."""
        if self.remove(delivery):
            self._due(delivery)

    def remove(self, delivery: Delivery) -> bool:
        """Forget it, without calling `due`; whether it was waiting."""
        return self._when.pop(delivery, None) is not None

    def clear(self) -> dict[Delivery, float]:
        """Forget all, and return them with the time when they would have gone on."""
        left = {delivery: at for delivery, (at, _) in self._when.items()}
        self._when.clear()
        self._heap.clear()
        self._cancel_timer()
        return left

    def _drop_stale(self) -> None:
        """Many were released before their time: their entries would stay until it comes."""
        self._heap = [entry for entry in self._heap if self._when.get(entry[2]) == entry[:2]]
        heapq.heapify(self._heap)

    def _set_timer(self) -> None:
        while self._heap and self._when.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)  # released or removed before its time
        if not self._heap:
            self._cancel_timer()
            return
        at = self._heap[0][0]
        if self._timer is None or at < self._timer_at:
            self._cancel_timer()
            self._timer_at = at
            self._timer = self._clock.call_later(at - self._clock.monotonic(), self._fire)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = None, float("inf")

    def _fire(self) -> None:
        self._timer, self._timer_at = None, float("inf")
        now = self._clock.monotonic()
        ready: list[Any] = []
        while self._heap and self._heap[0][0] <= now:
            at, order, delivery = heapq.heappop(self._heap)
            if self._when.get(delivery) == (at, order):
                del self._when[delivery]
                ready.append(delivery)
        for delivery in ready:
            self._due(delivery)
        self._set_timer()

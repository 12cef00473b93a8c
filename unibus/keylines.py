"""Order by key inside a consumer: one message of a key at a time, the others stand in line."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable

from unibus.driver import Delivery


class KeyLines:
    """A key is busy from the moment one of its messages may be handled until that one is done for good."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Delivery]] = {}

    def admit(self, deliveries: Iterable[Delivery]) -> list[Delivery]:
        """Those that may be handled now; the others stand in their key's line."""
        lines, now = self._lines, []
        for delivery in deliveries:
            key = delivery.key
            if key is None:
                now.append(delivery)
            elif (line := lines.get(key)) is not None:
                line.append(delivery)
            else:
                lines[key] = deque()
                now.append(delivery)
        return now

    def done(self, delivery: Delivery) -> Delivery | None:
        """The next one of the key, or None: the key is free."""
        if delivery.key is None:
            return None
        line = self._lines.get(delivery.key)
        if line:
            return line.popleft()
        self._lines.pop(delivery.key, None)
        return None

    def remove(self, gone: Container[Delivery]) -> list[Delivery]:
        """Take these out of the lines; returns those that stood there."""
        removed = []
        for key, line in self._lines.items():
            leaving = [delivery for delivery in line if delivery in gone]
            if leaving:
                removed += leaving
                self._lines[key] = deque(delivery for delivery in line if delivery not in gone)
        return removed

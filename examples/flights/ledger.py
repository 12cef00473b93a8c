"""What the handlers note while they work."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(slots=True)
class Mean:
    """A mean that takes its values one by one."""

    total: int = 0
    count: int = 0

    def add(self, value: int) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else 0.0


@dataclass(slots=True)
class Ledger:
    """Not what the bus says that it did, but what was done.

    read: rows of the file, repeated: those of them that were sent twice. cancelled: the flights
    that ought to become dead letters. handled: how often each flight was; failed: flights whose
    first run failed. counted, delays: what the two groups heard.
    """

    read: int = 0
    repeated: int = 0
    cancelled: set[str] = field(default_factory=set)
    handled: Counter[str] = field(default_factory=Counter)
    failed: set[str] = field(default_factory=set)
    counted: int = 0
    delays: defaultdict[str, Mean] = field(default_factory=lambda: defaultdict(Mean))

    def first_failure(self, flight: str) -> bool:
        """Whether this flight has not failed yet; from now on it has."""
        if flight in self.failed:
            return False
        self.failed.add(flight)
        return True

"""The books: what went in against what came out. They balance, or the problems say where they do not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from examples.flights.ledger import Ledger
from examples.flights.rows import CANCELLED, DEPARTED, ROWS


@dataclass(frozen=True, slots=True)
class DeadFlight:
    """A dead letter: which flight, and why."""

    flight_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Books:
    """One run, closed. sent, skipped, retried: messages, as the bus counted them. left: what still lies in queues."""

    ledger: Ledger
    sent: int
    skipped: int
    retried: int
    dead: Sequence[DeadFlight]
    left: Mapping[str, int]
    seconds: float

    @property
    def handled(self) -> int:
        """Flights that were handled exactly once."""
        return sum(times == 1 for times in self.ledger.handled.values())

    @property
    def dead_by_reason(self) -> Counter[str]:
        return Counter(letter.reason for letter in self.dead)

    @property
    def lost(self) -> int:
        """Messages that were sent and neither handled, skipped as duplicates, nor dead-lettered."""
        return self.sent - self.handled - self.skipped - len(self.dead)

    @property
    def mean_delay(self) -> dict[str, float]:
        """Minutes, by carrier."""
        return {carrier: mean.value for carrier, mean in sorted(self.ledger.delays.items())}

    def problems(self, *, at_most_once: bool = False) -> list[str]:
        """Why the books do not balance; empty if they do. at_most_once: messages may be lost, never doubled."""
        found = list(self._doubled())
        if self.ledger.read != ROWS:
            found.append(f"{self.ledger.read:,} rows were read instead of {ROWS:,}")
        if self.sent != self.ledger.read + self.ledger.repeated:
            found.append(f"{self.sent:,} were sent instead of {self.ledger.read + self.ledger.repeated:,}")
        return found if at_most_once else [*found, *self._lost()]

    def _doubled(self) -> Iterator[str]:
        twice = [flight for flight, times in self.ledger.handled.items() if times > 1]
        if twice:
            yield f"{len(twice):,} flights were handled more than once, {twice[0]} among them"
        if self.lost < 0:
            yield f"{-self.lost:,} more messages were handled, skipped or dead-lettered than were sent"
        dead = [letter.flight_id for letter in self.dead]
        if len(dead) != len(set(dead)):
            yield f"{len(dead) - len(set(dead)):,} flights are dead letters twice"
        wrong = [letter for letter in self.dead if letter.flight_id not in self.ledger.cancelled]
        if wrong:
            yield f"{len(wrong):,} dead letters are no cancelled flights: {wrong[0].flight_id}, {wrong[0].reason}"
        for what, heard in (("count", self.ledger.counted), ("delays", self._heard_delays)):
            if heard > self.handled:
                yield f"the group {what} heard {heard:,} departures of {self.handled:,}"

    def _lost(self) -> Iterator[str]:
        if self.handled != DEPARTED:
            yield f"{self.handled:,} flights were handled exactly once instead of {DEPARTED:,}"
        if len(self.ledger.cancelled) != CANCELLED or len(self.dead) != CANCELLED:
            yield f"{len(self.dead):,} dead letters instead of {CANCELLED:,}"
        if self.lost > 0:
            yield f"{self.lost:,} messages were lost"
        if self.skipped != self.ledger.repeated:
            yield f"{self.skipped:,} duplicates were skipped, {self.ledger.repeated:,} were sent"
        if self.retried < len(self.ledger.failed):
            yield f"{len(self.ledger.failed):,} runs failed and {self.retried:,} were retried"
        for what, heard in (("count", self.ledger.counted), ("delays", self._heard_delays)):
            if heard < self.handled:
                yield f"the group {what} heard {heard:,} departures of {self.handled:,}"
        for source, depth in self.left.items():
            if depth:
                yield f"{depth:,} messages are left in {source}"

    @property
    def _heard_delays(self) -> int:
        return sum(mean.count for mean in self.ledger.delays.values())

    def as_json(self) -> dict[str, object]:
        return {
            "read": self.ledger.read,
            "sent": self.sent,
            "handled": self.handled,
            "duplicates_skipped": self.skipped,
            "retried": self.retried,
            "dead_lettered": len(self.dead),
            "counted": self.ledger.counted,
            "mean_delay": {carrier: round(mean, 4) for carrier, mean in self.mean_delay.items()},
        }

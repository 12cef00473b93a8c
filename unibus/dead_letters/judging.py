"""What becomes of each letter in a run."""

from __future__ import annotations

from dataclasses import dataclass

from unibus import attributes as names
from unibus.dead_letters.conditions import Condition
from unibus.dead_letters.letter import Letter
from unibus.dead_letters.places import Destinations, Place, Staying
from unibus.dead_letters.report import Report
from unibus.driver import Clock, Delivery, Source

MOST_REPLAYS = 3
"""A letter that was replayed so often stays, unless it is forced: it fails each time."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant. limit: so many at most. force: those, too, that were replayed too often."""

    wanted: Condition
    limit: int | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """A letter that the run acts on. destination: where it is replayed to, None for a purge."""

    delivery: Delivery
    letter: Letter
    destination: Source | None


class Judge:
    """Counts into the report what it leaves. destinations: None for a purge."""

    def __init__(
        self, place: Place, selection: Selection, destinations: Destinations | None, report: Report, clock: Clock
    ) -> None:
        self._place = place
        self._selection = selection
        self._destinations = destinations
        self._report = report
        self._clock = clock
        self._chosen = 0

    @property
    def has_enough(self) -> bool:
        limit = self._selection.limit
        return limit is not None and self._chosen >= limit

    def letter(self, delivery: Delivery) -> Letter:
        return Letter(delivery, self._clock.now(), self._place.owner_name)

    async def judge(self, delivery: Delivery) -> Chosen | None:
        """None: it stays."""
        report, letter = self._report, self.letter(delivery)
        report.seen += 1
        if not (self._place.has(letter) and self._selection.wanted(letter)):
            report.unmatched += 1
            return None
        destination = None
        if self._destinations is not None:
            if letter.replays >= MOST_REPLAYS and not self._selection.force:
                report.tired += 1
                return None
            try:
                destination = await self._destinations.of(letter)
            except Staying as reason:
                report.fail(letter.id, str(reason))
                return None
        self._chosen += 1
        return Chosen(delivery, letter, destination)


def is_of_run(delivery: Delivery, run: str) -> bool:
    """Whether the run sent it itself: it wrote it to the end, or replayed it, and it has failed again."""
    return delivery.attributes.get(names.RUN) == run

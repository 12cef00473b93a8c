"""The judge: what the journals of a run prove. By sets of ids, never by counts alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from functools import cached_property

from tests.faults.journal import PUBLISHED, Entry


class Books:
    """dead: the ids that lay in the dead letters in the end. elsewhere: where else ids were found that have their place
    there, as those whose queue was deleted."""

    def __init__(self, entries: Iterable[Entry], dead: Collection[str] = (), elsewhere: Collection[str] = ()) -> None:
        self.entries = list(entries)
        self.dead = set(dead)
        self.elsewhere = set(elsewhere)

    def of(self, *kinds: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind in kinds]

    # --- publishing -----------------------------------------------------------------------------------

    @cached_property
    def confirmed(self) -> dict[str, Entry]:
        """The attempts that the library reported as confirmed, by id."""
        return {entry.id: entry for entry in self.of("confirmed")}

    @cached_property
    def unknown(self) -> list[Entry]:
        """The attempts whose outcome the library could not tell: each may have stored its message."""
        return self.of("unknown")

    def attempts_within(self, start: float, end: float) -> list[Entry]:
        """Attempts to send that were under way at some time of it."""
        return [entry for entry in self.of(*PUBLISHED) if entry.began <= end and entry.at >= start]

    # --- handling -------------------------------------------------------------------------------------

    @cached_property
    def handled(self) -> set[str]:
        """What a handler took to its successful end."""
        return {entry.id for entry in self.of("ended")}

    @cached_property
    def lost(self) -> set[str]:
        """L: confirmed, and nowhere to be found."""
        return set(self.confirmed) - self.handled - self.dead - self.elsewhere

    @cached_property
    def unexpected(self) -> set[str]:
        """Handled or dead, though nobody had it sent."""
        sent = {entry.id for entry in self.of(*PUBLISHED)}
        return (self.handled | self.dead | self.elsewhere) - sent

    @cached_property
    def duplicates(self) -> int:
        """D: runs of a handler beyond the first of each attempt of each message."""
        runs = Counter((entry.id, entry.attempt) for entry in self.of("begun"))
        return sum(count - 1 for count in runs.values())

    @cached_property
    def effects(self) -> Counter[str]:
        """How often each message had its effect."""
        return Counter(entry.id for entry in self.of("effect"))

    def running(self, pid: int, at: float) -> set[str]:
        """What the handlers of a process had in hand at a moment."""
        began = Counter[str]()
        for entry in self.entries:
            if entry.pid == pid and entry.at <= at and entry.kind in ("begun", "ended", "failed"):
                began[entry.id] += 1 if entry.kind == "begun" else -1
        return {one for one, count in began.items() if count > 0}

    # --- delays ---------------------------------------------------------------------------------------

    def early(self, delays: dict[str, float]) -> list[str]:
        """What was handled before its time. delays: those with which messages were sent, by id, in seconds.

        A duplicate of a message may be handled as soon as the first copy is due, so the first counts.
        """
        due: dict[tuple[str, int], float] = {}
        for entry in self.of(*PUBLISHED):
            if entry.id in delays:
                _earliest(due, (entry.id, 1), entry.began + delays[entry.id])
        for entry in self.of("failed"):
            _earliest(due, (entry.id, entry.attempt + 1), entry.at + entry.value)
        return [
            f"{entry.id}, attempt {entry.attempt}: {due[entry.id, entry.attempt] - entry.at:.3f} s early"
            for entry in self.of("begun")
            if entry.at < due.get((entry.id, entry.attempt), 0.0)
        ]

    # --- the verdict ----------------------------------------------------------------------------------

    def complaints(
        self, count: int, *, duplicates: int, losses: Collection[str] = (), dead: Collection[str] = ()
    ) -> list[str]:
        """What is wrong with a run that should have sent `count` messages.

        duplicates: how many are allowed. losses, dead: the ids that may be lost, and may be dead letters.
        """
        found = []
        if len(self.confirmed) != count:
            found.append(f"{len(self.confirmed)} of {count} messages ended confirmed")
        if stray := self.lost - set(losses):
            found.append(f"{len(stray)} confirmed messages are lost: {_some(stray)}")
        if self.unexpected:
            found.append(f"{len(self.unexpected)} messages came that nobody sent: {_some(self.unexpected)}")
        if stray := self.dead - set(dead):
            found.append(f"{len(stray)} messages are dead letters: {_some(stray)}")
        if self.duplicates > duplicates:
            found.append(f"{self.duplicates} extra runs of handlers, {duplicates} are allowed")
        if corrupt := {entry.id for entry in self.of("corrupt")}:
            found.append(f"{len(corrupt)} messages came with another's payload: {_some(corrupt)}")
        return found

    def effect_complaints(self, count: int, *, extra: int) -> list[str]:
        """At least one effect a message, and at most `extra` more in all."""
        found = []
        if missing := set(self.confirmed) - set(self.effects):
            found.append(f"{len(missing)} confirmed messages had no effect: {_some(missing)}")
        if (total := self.effects.total()) > count + extra:
            found.append(f"{total} effects of {count} messages, {extra} more are allowed")
        return found


def _earliest(times: dict[tuple[str, int], float], key: tuple[str, int], time: float) -> None:
    times[key] = min(time, times.get(key, time))


def _some(ids: Collection[str]) -> str:
    return ", ".join(sorted(ids)[:5])

"""The hop of a message that failed, to its retry or to the dead letters: its steps, at which a process may die, and the
judge of what became of the message and of those beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import BaseModel

from tests.faults.books import Books
from tests.faults.journal import Entry

AFTER = 4.0
"""Seconds after which a retry comes."""
AFTER_TIERS = 9.0
"""The same, of one that goes from tier to tier however late a busy machine looks for it first: they last a second."""
SOON = 0.9
"""Seconds of a retry that waits in the process."""
DIED = 9
"""The exit code of who died where it should."""

Verdict: TypeAlias = Literal["retry", "wait", "dead"]
"""The message fails once and is re-sent, or once and waits in the process, or is a dead letter at once."""

Step: TypeAlias = Literal[
    "handler failed", "waits", "sent", "sent at shutdown", "before the ack", "acked", "before the commit", "committed",
    "before the move", "moved",
    "tier: before the move", "tier: moved", "tier: before the commit", "tier: committed",
    "due: before the move", "due: moved", "due: before the commit", "due: committed",
]  # fmt: skip
"""Where the process dies. "sent": the broker has confirmed, and the core does not know yet; "acked" likewise. commit:
of the group's offset. move: of the delayed message, from tier to tier and, when it is due, to its queue."""


@dataclass(frozen=True, slots=True)
class Point:
    """One cell of the matrix. group: the message was published to a topic, and failed in a group."""

    verdict: Verdict
    step: Step
    group: bool = False

    @property
    def resends(self) -> bool:
        """Whether the message is sent again before the process dies."""
        return self.verdict != "dead" and self.step not in ("handler failed", "waits")

    @property
    def after(self) -> float:
        """Seconds between the failure and the retry."""
        if self.verdict == "wait":
            return SOON
        return AFTER_TIERS if self.step.startswith("tier") else AFTER

    def __str__(self) -> str:
        what = {"retry": "retry", "wait": "short retry", "dead": "dead letter"}[self.verdict]
        return f"{what}{' of a group' if self.group else ''}: {self.step}"


VERDICTS: tuple[Verdict, ...] = "retry", "dead"
STEPS: tuple[Step, ...] = "handler failed", "sent", "before the ack", "acked"
SENDING = [Point(verdict, step) for verdict in VERDICTS for step in STEPS]
WAITING = [Point("wait", "waits"), Point("wait", "sent at shutdown")]
OF_GROUPS = [Point("retry", "sent", group=True), Point("dead", "sent", group=True)]
OF_QUEUES = [*SENDING, *WAITING]
EVERYWHERE = [*OF_QUEUES, *OF_GROUPS]

MOVING = [Point("retry", "before the move"), Point("retry", "moved")]
"""Where clients move what is due, in one step on the server."""
COMMITTED: tuple[Step, ...] = "before the commit", "committed"
COMMITTING = [Point(verdict, step) for verdict in VERDICTS for step in COMMITTED]
FORWARDED: tuple[Step, ...] = (
    "tier: before the move", "tier: moved", "tier: before the commit", "tier: committed",
    "due: before the move", "due: moved", "due: before the commit", "due: committed",
)  # fmt: skip
FORWARDING = [Point("retry", step) for step in FORWARDED]
"""Where clients move them from log to log."""
SENT_ON: tuple[Step, ...] = "tier: before the move", "tier: moved", "tier: committed"
SENDING_ON = [Point("retry", step) for step in SENT_ON]
"""Where a client sends them on, and then takes them away where they were: the commit."""


class Hop(BaseModel):
    """What a consumer has to know of it. name: of its queue, or of the topic and its group. message: the one that
    fails; all others are handled. after: seconds until its retry."""

    name: str
    message: str
    verdict: Verdict
    group: bool
    after: float


@dataclass(frozen=True, slots=True)
class Death:
    """How the victim ended. unsettled: the ids of what the broker had to take for undone. resent: whether there is a
    copy by it of the message that failed."""

    pid: int
    code: int | None
    said: str
    unsettled: Collection[str]
    resent: bool


@dataclass(frozen=True, slots=True)
class Left:
    """What was found on the broker in the end. letters: how often each id lay in the dead letters."""

    letters: Mapping[str, int]
    ready: int = 0
    in_flight: int = 0
    delayed: int = 0


def unsettled_of(entries: list[Entry]) -> frozenset[str]:
    """As the victim wrote it down while it died."""
    return frozenset(one for entry in entries if entry.kind == "unsettled" for one in entry.text.split())


def complaints(hop: Hop, books: Books, death: Death, left: Left) -> list[str]:
    """What is wrong. A message may come once more if it was unsettled, each attempt of it; never before its time."""
    found = []
    if death.code != DIED:
        found.append(f"the step was never reached: the process ended with code {death.code}: {death.said[-2000:]}")
    if books.lost:
        found.append(f"lost: {', '.join(sorted(books.lost))}")
    if books.unexpected:
        found.append(f"nobody sent: {', '.join(sorted(books.unexpected))}")
    runs = Counter((entry.id, entry.attempt) for entry in books.of("begun"))
    for (message, attempt), count in sorted(runs.items()):
        if count > (2 if message in death.unsettled else 1):
            found.append(f"{message}: {count} runs of attempt {attempt}{_standing(message, death)}")
    for message, count in sorted(left.letters.items()):
        if message != hop.message or hop.verdict != "dead":
            found.append(f"{message} is a dead letter")
        elif count > (2 if message in death.unsettled else 1):
            found.append(f"{message} is a dead letter {count} times{_standing(message, death)}")
    if hop.verdict == "dead" and hop.message in books.handled:
        found.append(f"{hop.message} was handled in the end, though it fails always")
    found += early(hop, books, death)
    if left.ready or left.in_flight or left.delayed:
        found.append(f"left behind: {left.ready} ready, {left.in_flight} in flight, {left.delayed} delayed")
    return found


def early(hop: Hop, books: Books, death: Death) -> list[str]:
    """Runs of the second attempt before their time: the first before the first copy is due, the second before the
    second. One that was repeated on its way has no time of its own."""
    dues = sorted(entry.at + entry.value for entry in books.of("failed") if death.resent or entry.pid != death.pid)
    runs = sorted(entry.at for entry in books.of("begun") if entry.id == hop.message and entry.attempt == 2)
    return [
        f"{hop.message}: run {number} of attempt 2 is {due - at:.3f} s early"
        for number, (at, due) in enumerate(zip(runs, dues, strict=False), start=1)
        if at < due
    ]


def _standing(message: str, death: Death) -> str:
    return ", and it was unsettled" if message in death.unsettled else ", and it was settled"


def allowed(hop: Hop, books: Books, death: Death) -> int:
    """How much may be repeated: each attempt, and each dead letter, of what was unsettled."""
    attempts = {(entry.id, entry.attempt) for entry in books.of("begun")}
    letters = [hop.message] if hop.verdict == "dead" else []
    return sum(one in death.unsettled for one in [*[message for message, _ in attempts], *letters])


def repeated(books: Books, left: Left) -> int:
    """Runs of handlers, and dead letters, beyond the first of each."""
    return books.duplicates + sum(count - 1 for count in left.letters.values())

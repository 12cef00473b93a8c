"""The steps of a hop that are Kafka's own: commits of offsets, and forwarders that move records from log to log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from tests.faults.dying import Dying
from tests.faults.hops import Step
from unibus.driver import Delivery
from unibus_kafka.consumer import Member
from unibus_kafka.forwarder import Forwarder
from unibus_kafka.forwarding import Forwarding
from unibus_kafka.records import Record

Stage: TypeAlias = Literal["hop", "tier", "due"]
"""Of a record: the message that failed, on its way from tier to tier, on its way to its queue."""

BEFORE_MOVE: dict[Stage, Step] = {"tier": "tier: before the move", "due": "due: before the move"}
MOVED: dict[Stage, Step] = {"tier": "tier: moved", "due": "due: moved"}
BEFORE_COMMIT: dict[Stage, Step] = {
    "hop": "before the commit", "tier": "tier: before the commit", "due": "due: before the commit",
}  # fmt: skip
COMMITTED: dict[Stage, Step] = {"hop": "committed", "tier": "tier: committed", "due": "due: committed"}


def watch(dying: Dying) -> None:
    watching = Watching(dying)
    next_of, move, commit = Forwarder._next, Forwarding._move, Member.commit

    def next_and_note(self: Forwarder, delivery: Delivery, due: float, remaining: float) -> tuple[str, Record]:
        watching.move_begins(delivery, remaining)
        return next_of(self, delivery, due, remaining)

    async def move_and_note(self: Forwarding, moves: Sequence[tuple[str, Record]]) -> None:
        dying.reaches(BEFORE_MOVE[watching.stage])
        await move(self, moves)
        dying.moved = True
        dying.reaches(MOVED[watching.stage])

    async def commit_and_note(self: Member, offsets: dict[Any, tuple[int, str]]) -> None:
        covered = watching.covered(offsets)
        dying.reaches(*[BEFORE_COMMIT[stage] for stage in covered])
        await commit(self, offsets)
        watching.committed(offsets)
        dying.reaches(*[COMMITTED[stage] for stage in covered])

    Forwarder._next = next_and_note  # type: ignore[method-assign]
    Forwarding._move = move_and_note  # type: ignore[method-assign]
    Member.commit = commit_and_note  # type: ignore[method-assign]


class Watching:
    """Which records are the message: the one that failed, and the one that a forwarder has in hand."""

    def __init__(self, dying: Dying) -> None:
        self._dying = dying
        self._moving: Any = None
        self.stage: Stage = "tier"
        self._offsets: dict[tuple[str, int], int] = {}
        dying.committed = self._offsets

    def move_begins(self, delivery: Delivery, remaining: float) -> None:
        self._moving = delivery.native
        self.stage = "due" if remaining <= 0 else "tier"

    def covered(self, offsets: dict[Any, tuple[int, str]]) -> list[Stage]:
        """What this commit says to be done."""
        stages: list[Stage] = []
        hop = next((one for one in self._dying.received if one.message_id == self._dying.hop.message), None)
        if hop is not None and _covers(offsets, hop.native):
            stages.append("hop")
        if self._moving is not None and _covers(offsets, self._moving):
            stages.append(self.stage)
        return stages

    def committed(self, offsets: dict[Any, tuple[int, str]]) -> None:
        for tp, (offset, _) in offsets.items():
            self._offsets[tp.topic, tp.partition] = offset
        if self._moving is not None and _covers(offsets, self._moving):
            self._dying.moved = False


def _covers(offsets: dict[Any, tuple[int, str]], record: Any) -> bool:
    return any(
        (tp.topic, tp.partition) == (record.topic, record.partition) and offset > record.offset
        for tp, (offset, _) in offsets.items()
    )

"""Commits of a subscription's watermarks: at most one is under way, and many settlements make one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from unibus.driver import Clock
from unibus_kafka.consumer import Member
from unibus_kafka.failures import FOREIGN
from unibus_kafka.partition import Partition
from unibus_kafka.stamp import stamped

logger = logging.getLogger("unibus.kafka")

EVERY = 0.5
"""Seconds."""
MANY = 1000
"""Settlements that are committed at once."""
LATE = 1.0
"""Seconds after a settlement in which it should be committed."""


class Commits:
    """partitions: those that are assigned to us now. Only what belongs to them is committed, so that what was settled
    in an earlier time never rewinds the group. every: seconds between the first settlement and its commit, unless many
    come."""

    def __init__(
        self,
        member: Callable[[], Member],
        partitions: Callable[[], Iterable[Partition]],
        clock: Clock,
        *,
        every: float = EVERY,
    ) -> None:
        self._member = member
        self._partitions = partitions
        self._clock = clock
        self._every = every
        self._pause = every
        """Until the next one: after one that failed never less than `EVERY`."""
        self._lock = asyncio.Lock()
        self._settled = 0
        self._since: float | None = None
        self._uncommitted_since: float | None = None
        self._wanted = asyncio.Event()

    @property
    def late(self) -> bool:
        """Whether the group does not hear of us. It may have put us out: what is handled now might be handled again."""
        since = self._uncommitted_since
        return since is not None and self._clock.monotonic() - since > LATE

    def note(self, settled: int) -> None:
        """So many more are settled."""
        self._settled += settled
        if self._since is None:
            self._since = self._clock.monotonic()
            self._wanted.set()
        elif self._settled >= MANY:
            self._wanted.set()
        if self._uncommitted_since is None:
            self._uncommitted_since = self._clock.monotonic()

    async def run(self) -> None:
        """In a task of its own, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self._since is None:
                continue
            left = self._since + self._pause - self._clock.monotonic()
            if left > 0 and self._settled < MANY:
                timer = self._clock.call_later(left, self._wanted.set)
                await self._wanted.wait()
                timer.cancel()
            await self.commit()

    async def commit(self) -> bool:
        """What is news. Returns whether all of it is committed; what is not is tried again."""
        async with self._lock:
            began, self._settled, self._since = self._clock.monotonic(), 0, None
            self._wanted.clear()
            news = {
                partition: (low, partition.note)
                for partition in self._partitions()
                if (low := partition.mark.low) is not None
                and (partition.mark.to_commit is not None or partition.is_beyond_note)
            }
            done = await self._write(news)
        self._pause = self._every if done else EVERY
        if done:
            self._uncommitted_since = None if self._since is None else began
        else:
            self._since = self._clock.monotonic()
            self._wanted.set()
        return done

    async def begin(self, partitions: Iterable[Partition]) -> bool:
        """Write down what is about to be handed out. Without it no process that dies of it would be counted."""
        async with self._lock:
            ours = set(self._partitions())  # some may have gone while we waited
            done = await self._write(
                {
                    p: (low, p.note)
                    for p in partitions
                    if p in ours and (low := p.mark.low) is not None and p.mark.next is not None
                }
            )
        return done

    async def farewell(self, notes: dict[Partition, str], member: Member) -> None:
        """At a clean end: the watermarks, and what is to be remembered of what stands first. member: whose partitions
        they are; another one that has its place by now has nothing to say of them."""
        async with self._lock:
            if member is not self._member():
                return
            done = await self._write(
                {
                    partition: (low, note)
                    for partition, note in notes.items()
                    if (low := partition.mark.low) is not None
                    and (partition.mark.to_commit is not None or partition.lives.begun or note)
                }
            )
        if done:
            self._uncommitted_since = None

    async def _write(self, offsets: dict[Partition, tuple[int, str]]) -> bool:
        if not offsets:
            return True
        try:
            await self._member().commit(
                {one.tp: (low, stamped(note, one.identity)) for one, (low, note) in offsets.items()}
            )
        except FOREIGN as error:  # of a later generation, or again at the next turn
            logger.debug("cannot commit: %r", error)
            return False
        for partition, (low, _) in offsets.items():
            partition.mark.commit(low)
            partition.lives.begun = True
            partition.noted = partition.mark.next or 0
        return True

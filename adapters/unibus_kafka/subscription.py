"""What a subscription hands out, settles and commits; it outlives the consumers that it reads by."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

from aiokafka.structs import TopicPartition

from unibus.driver import (
    Clock,
    Delivery,
    DriverEvent,
    Inbox,
    Lost,
    Outcome,
    Recreated,
    Revoking,
    Source,
    TopicSubscription,
)
from unibus.errors import SettlementLost, UnibusError, UnsupportedCapability
from unibus_kafka import delays
from unibus_kafka.cluster import Cluster
from unibus_kafka.commits import EVERY as COMMIT_EVERY
from unibus_kafka.commits import Commits
from unibus_kafka.consumer import Member
from unibus_kafka.endpoint import Endpoint
from unibus_kafka.failures import FOREIGN, translated
from unibus_kafka.handout import Handout
from unibus_kafka.metadata import UNKNOWN
from unibus_kafka.partition import SUSPECT, Partition
from unibus_kafka.patterns import group_of, topic_of, topics_of
from unibus_kafka.stamp import unstamped
from unibus_kafka.turns import Turns
from unibus_kafka.watermark import widest_gap

logger = logging.getLogger("unibus.kafka")

POLL = 0.2
IDLE = 1.0
CLOSING = 10.0
"""Seconds for the last words to the group."""
JOIN = 60.0
WATCHED = 30.0
"""Seconds after a death in which another would be of the same cause."""


class KafkaSubscription:
    """The task that polls never waits for handlers. What nobody asks for stays with the library, or at the broker.

    tiers_of: in place of the source itself, the delays of this topic.
    """

    grouped = True

    def __init__(
        self,
        source: Source,
        endpoint: Endpoint,
        cluster: Cluster,
        prefetch: int,
        notify: Callable[[DriverEvent], None],
        clock: Clock,
        *,
        tiers_of: str | None = None,
    ) -> None:
        self.source = source
        self.inbox = Inbox(str(source), prefetch, clock)
        self.notify = notify
        self.own_topic = topic_of(source)
        self.pattern = topics_of(source) if tiers_of is None else delays.pattern_of(tiers_of)
        self.partitions: dict[TopicPartition, Partition] = {}
        self.member: Member
        self.closing = False
        self.forwards = False
        """Whether the delays of its topic are moved beside it."""
        self.progress_at = clock.monotonic()
        self._group = group_of(source) if tiers_of is None else delays.group_of(tiers_of)
        self._ordered = source.ordering == "key"
        self._handout = Handout(
            self.own_topic, source.name, ordered=self._ordered, patterned=isinstance(source, TopicSubscription)
        )
        self._endpoint = endpoint
        self._cluster = cluster
        self._clock = clock
        self._gap = widest_gap(prefetch) if tiers_of is None else delays.HELD
        self._turns = Turns()
        self._suspects = False
        self._watch_until = 0.0
        self._generation: int | None = None
        self._assignments = 0
        self._stable = asyncio.Event()
        # What a forwarder has moved may be handled in a moment: moved again, it would be handled again.
        every = COMMIT_EVERY if tiers_of is None else 0.0
        self._commits = Commits(lambda: self.member, self._current, clock, every=every)
        self._tasks: list[asyncio.Task[None]] = []
        self._poller: asyncio.Task[None]

    async def start(self) -> None:
        """Returns once live."""
        await self.join()
        self._poller = self.run(self._poll(), "poll")
        self.run(self._commits.run(), "commit")

    async def join(self) -> None:
        """By a consumer that is new."""
        self._stable.clear()
        member = self.member = Member(self._endpoint, self._group)
        try:
            with translated(f"subscribing to {self.source}"):
                async with asyncio.timeout(JOIN):
                    await member.join(self.pattern, partial(self._revoked, member), partial(self._assigned, member))
                    await self._stable.wait()
        except BaseException:
            await self._stop(member)
            raise

    def run(self, work: Coroutine[Any, Any, None], what: str) -> asyncio.Task[None]:
        """In a task that ends with the subscription."""
        task = asyncio.get_running_loop().create_task(work, name=f"unibus kafka {what} {self.source}")
        self._tasks.append(task)
        return task

    @property
    def unsettled(self) -> int:
        return sum(len(partition.mark.unsettled) for partition in self.partitions.values())

    # --- the seam -------------------------------------------------------------------------------------

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Delivery]:
        return await self.inbox.receive(max_messages, max_wait)

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        self.inbox.check_connected()
        if delay:
            raise UnsupportedCapability(f"settling with a delay of {delay} s: a log gives back at once")
        ours, stale = self.inbox.begin(deliveries)
        if outcome is Outcome.NACK:
            self._hand_out_again(ours)
        else:
            await self._settle(ours)
        if stale:
            raise SettlementLost(f"{stale} of {len(deliveries)} deliveries were not ours any more", count=stale)

    async def _settle(self, deliveries: Sequence[Delivery]) -> None:
        watchful = self._watchful()
        for delivery in deliveries:
            delivery.token.partition.mark.settle(delivery.token.offset)
        self.progress_at = self._clock.monotonic()
        if watchful:
            # What was re-sent as a suspect is to be done with before it is handled: it may kill us.
            await self._commits.commit()
        else:
            self._commits.note(len(deliveries))
        self.inbox.done(deliveries)

    def _watchful(self) -> bool:
        """Whether somebody died just now with what we read, or we hold a suspect. Then each step is written down
        before the next is taken: the next death may be ours."""
        return self.grouped and (self._suspects or self._clock.monotonic() < self._watch_until)

    async def close(self) -> None:
        if self.closing:
            return
        self.closing = True
        ready = set(self.inbox.ready)
        self.inbox.end()
        await self._end_tasks()
        if self.grouped and self.member.generation > 0:
            notes = {one: one.farewell(ready) for one in self.partitions.values()}
            await self._commits.farewell(notes, self.member)
        await self._stop(self.member)

    async def cut_off(self, reason: Exception) -> None:
        """For tests: gone without a commit, and without a word to the group."""
        self.closing = True
        self.inbox.end(reason)
        self.partitions.clear()
        await self._end_tasks()
        await self.member.cut_off()

    async def rebuild(self) -> None:
        """By another consumer, which begins where the group is."""
        old, before = self.member, self.partitions
        self.partitions, self._generation = {}, None
        self._drop(before.values())
        stopping = asyncio.get_running_loop().create_task(self._stop(old), name=f"unibus kafka stop {self.source}")
        # It may wait for the old one, which will never answer.
        self._poller.cancel()
        await asyncio.wait([self._poller])
        self._tasks.remove(self._poller)
        try:
            await self.join()
        finally:
            self._poller = self.run(self._poll(), "poll")
            await asyncio.wait([stopping])

    def _hand_out_again(self, deliveries: Sequence[Delivery]) -> None:
        """In its place, before what came later; of a partition that is being taken away not yet."""
        fresh = self._handout.again(deliveries)
        self.inbox.done(deliveries)
        self._put_in_order(fresh)

    def _put_in_order(self, deliveries: Iterable[Delivery]) -> None:
        both = [*self.inbox.ready, *deliveries]
        ordered = sorted(both, key=lambda one: (one.token.partition.tp, one.token.offset))
        self.inbox.ready.clear()
        self.inbox.put(ordered)

    async def _end_tasks(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _stop(self, member: Member) -> None:
        try:
            async with asyncio.timeout(CLOSING):
                await member.stop()
        except FOREIGN as error:
            logger.debug("%s: the consumer did not stop as it should: %r", self.source, error)

    # --- the task -------------------------------------------------------------------------------------

    async def _poll(self) -> None:
        while not self.closing:
            try:
                await self.turn()
            except FOREIGN as error:
                logger.debug("%s: cannot poll: %r", self.source, error)
                await self._clock.sleep(POLL)

    async def turn(self) -> None:
        wanted = self.inbox.wanted
        if wanted <= 0:
            await self.member.keep_alive()
            await self.inbox.wait_until_wanted(IDLE)
            return
        readable = [tp for tp, one in self.partitions.items() if not one.revoked and one.mark.gap < self._gap]
        if not readable or self._commits.late:
            await self.member.keep_alive()
            await self._clock.sleep(POLL / 4)
            return
        assignment = self._assignments
        found = await self._turns.poll(self.member.poll, readable, POLL, wanted)
        if assignment == self._assignments and self._stable.is_set():
            await self._accept(found)
        else:
            self._read_again(found)

    def _read_again(self, tps: Iterable[TopicPartition]) -> None:
        """Partitions changed hands while we polled: what came may be of before or after their places were sought."""
        assigned = self.member.assignment
        for tp in tps:
            if (partition := self.partitions.get(tp)) is not None and tp in assigned:
                self.member.seek(tp, partition.mark.next or 0)

    async def _accept(self, found: dict[TopicPartition, list[Any]]) -> None:
        fresh: list[Delivery] = []
        touched: list[Partition] = []
        for tp, records in found.items():
            partition = self.partitions.get(tp)
            if partition is None or partition.revoked:
                continue  # read again: here from where it stands, elsewhere from what is committed
            if records[0].offset < (partition.mark.next or 0):
                partition = self._begun_anew(partition)
            touched.append(partition)
            fresh += self._handout.first(partition, records)
        if not touched:
            return
        self.progress_at = self._clock.monotonic()
        if self.grouped:
            self._suspects = any(SUSPECT in delivery.attributes for delivery in fresh)
            watchful = self._watchful()
            unwritten = [one for one in touched if not one.lives.begun or (watchful and one.is_beyond_note)]
            if unwritten:
                await self._commits.begin(unwritten)
            else:
                self._commits.note(0)
        kept = []
        for delivery in fresh:  # the partition may have been taken away meanwhile
            partition = delivery.token.partition
            if partition.revoked:
                partition.kept_back.append(delivery)
            elif self.partitions.get(partition.tp) is partition:
                kept.append(delivery)
        self.inbox.put(kept)

    def _begun_anew(self, partition: Partition) -> Partition:
        """The log was deleted, or cut off, and has grown again: its offsets mean other records now."""
        fresh = Partition(partition.tp, None, "", ordered=self._ordered)
        self.partitions[partition.tp] = fresh
        self._handout.forget(partition.tp)
        self._drop([partition])
        self.notify(Recreated())
        return fresh

    # --- partitions change hands ----------------------------------------------------------------------

    def _current(self) -> Iterable[Partition]:
        return self.partitions.values() if self.grouped else ()

    async def _revoked(self, member: Member) -> None:
        """All are taken at each rebalance. What runs may finish; then the watermarks are committed."""
        if member is not self.member:
            return  # it is being stopped, and another one has its place
        self._stable.clear()
        partitions = list(self.partitions.values())
        if member.generation < 0:  # the group has put us out: others have them already
            self.partitions = {}
            self._drop(partitions)
            return
        for partition in partitions:
            partition.revoked = True
        for delivery in self.inbox.ready:
            delivery.token.partition.kept_back.append(delivery)
        self.inbox.ready.clear()
        deadline = self._clock.monotonic() + self._endpoint.options.revoke
        held = list(self.inbox.held)
        if held and not self.closing:
            self.notify(Revoking(held, deadline))
        while self.inbox.busy and self._clock.monotonic() < deadline and not self.closing:
            await self._clock.sleep(0.02)
        if not self.closing:
            ready = {delivery for partition in partitions for delivery in partition.kept_back}
            await self._commits.farewell({one: one.farewell(ready) for one in partitions}, member)

    async def _assigned(self, member: Member, tps: set[TopicPartition]) -> None:
        """What stays with us from one generation to the next goes on where it was; the rest is lost."""
        if member is not self.member:
            return
        generation = member.generation
        stays = self._generation is not None and generation == self._generation + 1
        self._generation = generation
        before = self.partitions
        new = [tp for tp in tps if not stays or tp not in before]
        begun = await self._begun(new)
        if member is not self.member:
            return
        self.partitions = {tp: begun[tp] if tp in begun else self._resumed(before.pop(tp)) for tp in tps}
        for tp, partition in self.partitions.items():
            member.seek(tp, partition.mark.next or 0)
        self._drop(before.values())
        self._assignments += 1
        if any(one.lives.dead for one in begun.values()):
            self._watch_until = self._clock.monotonic() + WATCHED
        self.progress_at = self._clock.monotonic()
        self._stable.set()

    async def _begun(self, tps: Sequence[TopicPartition]) -> dict[TopicPartition, Partition]:
        """From what the group has committed, else from the first record: to read twice is no loss."""
        while True:
            try:
                topics = await self._cluster.topics({tp.topic for tp in tps})
                identities = {tp: topics[tp.topic].identity if tp.topic in topics else UNKNOWN for tp in tps}
                committed = await self._cluster.committed(self._group, tps)
                known = {
                    tp: (offset, note)
                    for tp, (offset, text) in committed.items()
                    if (note := unstamped(text, identities[tp])) is not None
                }
                unknown = [tp for tp in tps if tp not in known]
                starts = await self._cluster.offsets(unknown, "first") if unknown else {}
                break
            except UnibusError as error:  # the library has no use for it, and we cannot go on without
                logger.debug("%s: cannot look where to begin: %r", self.source, error)
                await self._clock.sleep(POLL)
        return {
            tp: Partition(
                tp, *known.get(tp, (None, "")), ordered=self._ordered, start=starts.get(tp, 0), identity=identities[tp]
            )
            for tp in tps
        }

    def _resumed(self, partition: Partition) -> Partition:
        partition.revoked = False
        partition.lives.begun = False
        kept, partition.kept_back = partition.kept_back, []
        self._put_in_order(kept)
        return partition

    def _drop(self, partitions: Iterable[Partition]) -> None:
        gone = set(map(id, partitions))
        told = self.inbox.lose(
            [one for one in (*self.inbox.held, *self.inbox.ready) if id(one.token.partition) in gone]
        )
        if told:
            self.notify(Lost(told))

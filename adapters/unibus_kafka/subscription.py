"""A member of a consumer group: a task that polls, watermarks, and what happens when partitions change hands."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import errors as foreign

from unibus.driver import Clock, Delivery, DriverEvent, Inbox, Lost, Outcome, Revoking, Source, TopicSubscription
from unibus.errors import SettlementLost, UnsupportedCapability
from unibus_kafka.failures import FOREIGN
from unibus_kafka.options import Options
from unibus_kafka.partition import Partition
from unibus_kafka.records import Place, delivery_of

_POLL = 0.2
_BUSY_POLL = 0.02


class KafkaSubscription:
    """The poll loop never waits for handlers; partitions are paused while nobody wants more."""

    def __init__(
        self,
        source: Source,
        consumer: AIOKafkaConsumer,
        own_topic: str,
        options: Options,
        prefetch: int,
        notify: Callable[[DriverEvent], None],
        clock: Clock,
    ) -> None:
        self.source = source
        self.inbox = Inbox(str(source), prefetch, clock)
        self.notify = notify
        self.own_topic = own_topic
        self.partitions: dict[Any, Partition] = {}
        self.live = asyncio.Event()
        self._consumer = consumer
        self._grouped = not (isinstance(source, TopicSubscription) and source.group is None)
        self._seen: dict[Any, int] = {}
        self._generation: int | None = None
        self._committing = asyncio.Lock()
        self._options = options
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._matching: Callable[[], Awaitable[set[Any]]] | None = None
        self._follow_at = 0.0

    @property
    def listener(self) -> ConsumerRebalanceListener:
        return _Listener(self)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"unibus kafka {self.source}")

    @property
    def unsettled(self) -> int:
        return sum(len(partition.unsettled) for partition in self.partitions.values())

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
            for delivery in ours:
                delivery.token.partition.settled(delivery.token.offset)
            self.inbox.done(ours)
        if stale:
            raise SettlementLost(f"{stale} of {len(deliveries)} deliveries were not ours any more", count=stale)

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self.inbox.end()
        await self._end_task()
        await self._commit(self.partitions.values())
        await self._consumer.stop()

    async def cut_off(self, reason: Exception) -> None:
        """For tests: gone without a commit, and without a word to the group."""
        self._closing = True
        self.inbox.end(reason)
        self.partitions.clear()
        coordinator = self._consumer._coordinator
        if coordinator is not None and hasattr(coordinator, "_maybe_leave_group"):
            coordinator._maybe_leave_group = _say_nothing
        await self._end_task()
        await self._consumer.stop()

    def _hand_out_again(self, deliveries: Sequence[Delivery]) -> None:
        """In its place, before what came later; of a partition that is being taken away not yet."""
        fresh: list[Delivery] = []
        for old in deliveries:
            partition, offset = old.token.partition, old.token.offset
            again = delivery_of(old.native, partition, self.own_topic, self.source.name, again=True)
            partition.unsettled[offset] = again
            (partition.kept_back if partition.revoked else fresh).append(again)
        self.inbox.done(deliveries)
        self._put_in_order(fresh)

    def _put_in_order(self, deliveries: Iterable[Delivery]) -> None:
        ordered = deque(sorted([*self.inbox.ready, *deliveries], key=_place))
        self.inbox.ready.clear()
        self.inbox.put(ordered)

    async def _end_task(self) -> None:
        if self._task is not None:
            async with self._committing:  # the client would leave a commit that is cut off to itself
                self._task.cancel()
            await asyncio.wait({self._task})

    # --- without a group ------------------------------------------------------------------------------

    async def begin_at_the_end(self, matching: Callable[[], Awaitable[set[Any]]]) -> None:
        """Of the partitions that match now; those that come later are read from their start."""
        self._matching = matching
        tps = await matching()
        self._consumer.assign(tps)
        if tps:
            await self._consumer.seek_to_end(*tps)
            for tp in tps:
                await self._consumer.position(tp)
        self._follow_at = self._clock.monotonic() + self._options.metadata_age

    async def _follow(self, matching: Callable[[], Awaitable[set[Any]]]) -> None:
        """Take up new partitions. Left to the client, each new topic would make it read all of them again."""
        tps, known = await matching(), self._consumer.assignment()
        if not tps <= known:
            positions = {tp: await self._consumer.position(tp) for tp in known}
            self._consumer.assign(tps | known)
            for tp, position in positions.items():
                self._consumer.seek(tp, position)
        self._follow_at = self._clock.monotonic() + self._options.metadata_age

    # --- the task -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._closing:
            try:
                await self._cycle()
            except FOREIGN:
                await self._clock.sleep(0.2)

    async def _cycle(self) -> None:
        if self._matching is not None and self._clock.monotonic() >= self._follow_at:
            await self._follow(self._matching)
        if not self._grouped and not self._consumer.assignment():
            await self._clock.sleep(_POLL)
            return
        wanted = self.inbox.wanted
        if wanted > 0:
            self._consumer.resume(*self._consumer.paused())
            found = await self._consumer.getmany(timeout_ms=int(_POLL * 1000), max_records=wanted)
        else:
            self._consumer.pause(*self._consumer.assignment())
            found = await self._consumer.getmany(timeout_ms=0, max_records=1)
        for tp, records in found.items():
            self._accept(tp, records)
        await self._commit(self.partitions.values())
        if not found and wanted <= 0:
            await self.inbox.wait_until_wanted(_BUSY_POLL if self.unsettled else _POLL)

    def _accept(self, tp: Any, records: Iterable[Any]) -> None:
        partition = self.partitions.get(tp)
        if partition is None and not self._grouped:
            partition = self.partitions[tp] = Partition(tp)
        if partition is None or partition.revoked:
            return  # the next owner begins at what is committed
        seen = self._seen.get(tp, -1)
        for record in records:
            delivery = delivery_of(record, partition, self.own_topic, self.source.name, again=record.offset <= seen)
            partition.came(record.offset, delivery)
            self.inbox.put([delivery])
            self._seen[tp] = max(seen, record.offset)

    async def _commit(self, partitions: Iterable[Partition]) -> None:
        if not self._grouped:
            return
        offsets = {partition: partition.to_commit for partition in partitions}
        news = {partition: offset for partition, offset in offsets.items() if offset is not None}
        if not news:
            return
        with suppress(foreign.KafkaError, TimeoutError):  # of a later generation, or again at the next turn
            # The client repeats for ever what may succeed once; a later commit says more anyway.
            async with self._committing:
                await asyncio.wait_for(
                    self._consumer.commit({partition.tp: offset for partition, offset in news.items()}),
                    self._options.timeout,
                )
            for partition, offset in news.items():
                partition.committed(offset)

    # --- partitions change hands ----------------------------------------------------------------------

    async def revoke(self) -> None:
        """All are taken at each rebalance. What runs may finish; then the watermarks are committed."""
        partitions = list(self.partitions.values())
        for partition in partitions:
            partition.revoked = True
        for delivery in self.inbox.ready:
            delivery.token.partition.kept_back.append(delivery)
        self.inbox.ready.clear()
        deadline = self._clock.monotonic() + self._options.revoke
        held = list(self.inbox.held)
        if held and not self._closing:
            self.notify(Revoking(held, deadline))
            while self.inbox.busy and self._clock.monotonic() < deadline and not self._closing:
                await self._clock.sleep(_BUSY_POLL)
        if not self._closing:
            await self._commit(partitions)

    def assign(self, tps: Iterable[Any]) -> None:
        """What stays with us from one generation to the next goes on where it was; the rest is lost."""
        before: dict[Any, Any] = self.partitions
        generation = _generation(self._consumer)
        stays = self._generation is not None and generation == self._generation + 1
        self._generation = generation
        self.partitions = {tp: (before.pop(tp, None) if stays else None) or Partition(tp) for tp in tps}
        gone = {id(partition) for partition in before.values()}
        self._drop([one for one in self.inbox.held if id(one.token.partition) in gone])
        for tp, partition in self.partitions.items():
            partition.revoked = False
            if partition.position is not None:
                self._consumer.seek(tp, partition.position)
            self._put_in_order(partition.kept_back)
            partition.kept_back = []
        self.live.set()

    def _drop(self, deliveries: Iterable[Delivery]) -> None:
        told = self.inbox.lose(deliveries)
        if told:
            self.notify(Lost(told))


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, subscription: KafkaSubscription) -> None:
        self._subscription = subscription

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._subscription.revoke()

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._subscription.assign(assigned)


def _place(delivery: Delivery) -> tuple[Any, int]:
    token: Place = delivery.token
    return token.partition.tp, token.offset


def _generation(consumer: Any) -> int | None:
    """Counts the rebalances; a member that was thrown out meanwhile misses one."""
    return getattr(consumer._coordinator, "generation", None)


async def _say_nothing() -> None:
    pass

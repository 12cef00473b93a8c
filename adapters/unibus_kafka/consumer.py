"""The library's consumer, as a member of a group or alone. The one place that knows what it hides."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import errors as foreign
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from unibus_kafka.cluster import BACKOFF
from unibus_kafka.connections import shun_ended
from unibus_kafka.endpoint import Endpoint

_NOTHING = TopicPartition("unibus.none", 0)
FETCH_WAIT = 0.2
"""Seconds that a broker may wait for the first record."""
PARTITION_BYTES = 1024 * 1024
"""Read ahead of one partition, at most, but for a record that is larger."""


class Member:
    """One life of a consumer; a new one takes its place when it hangs."""

    def __init__(self, endpoint: Endpoint, group: str | None) -> None:
        options = endpoint.options
        self._timeout = options.timeout
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=endpoint.servers,
            client_id="unibus",
            group_id=group,
            group_instance_id=options.instance,
            enable_auto_commit=False,
            # Only where no offset is committed, or it is none of the log's any more: to read twice is no loss.
            auto_offset_reset="earliest",
            session_timeout_ms=int(options.session * 1000),
            heartbeat_interval_ms=int(options.session * 1000 / 4),
            rebalance_timeout_ms=int((options.revoke + 20) * 1000),
            metadata_max_age_ms=int(options.metadata_age * 1000),
            fetch_max_wait_ms=int(FETCH_WAIT * 1000),
            max_partition_fetch_bytes=PARTITION_BYTES,
            request_timeout_ms=int(max(options.timeout, 2 * FETCH_WAIT + 1) * 1000),
            retry_backoff_ms=int(BACKOFF * 1000),
            **endpoint.security,
        )
        shun_ended(self._consumer._client)

    async def join(
        self, pattern: str, revoked: Callable[[], Awaitable[None]], assigned: Callable[[set[Any]], Awaitable[None]]
    ) -> None:
        """Returns once the group has an assignment. By a pattern always: the library asks for a topic by its name in a
        way that makes it, where the cluster is configured so."""
        self._consumer.subscribe(pattern=re.compile(pattern), listener=_Listener(revoked, assigned))
        await self._consumer.start()

    async def start_alone(self) -> None:
        await self._consumer.start()

    async def stop(self) -> None:
        """Leaves the group."""
        try:
            await self._consumer.stop()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling() > 0:
                raise
            # The library cancels a fetch that was to be repeated, lets that slip out, and closes nothing more.
            await self._consumer._client.close()

    async def cut_off(self) -> None:
        """For tests: without a word to the group."""
        coordinator = self._consumer._coordinator
        if coordinator is not None and hasattr(coordinator, "_maybe_leave_group"):
            coordinator._maybe_leave_group = _say_nothing
        await self._consumer.stop()

    @property
    def generation(self) -> int:
        """Counts the rebalances; -1 when the group does not know us any more, which nothing else tells."""
        return int(getattr(self._consumer._coordinator, "generation", -1))

    @property
    def identity(self) -> str:
        """By which the group knows us."""
        return str(self._consumer._coordinator.member_id)

    @property
    def assignment(self) -> set[TopicPartition]:
        return set(self._consumer.assignment())

    async def poll(self, partitions: Iterable[TopicPartition], seconds: float, most: int) -> dict[Any, list[Any]]:
        """Records of these partitions alone; the others stay as they are, read ahead as far as they are."""
        found: dict[Any, list[Any]] = await self._consumer.getmany(
            *partitions, timeout_ms=int(seconds * 1000), max_records=most
        )
        return found

    async def position(self, tp: TopicPartition) -> int:
        """What is polled next: past marks of transactions, which are no records."""
        return int(await self._consumer.position(tp))

    async def keep_alive(self) -> None:
        """The library leaves the group when nobody has polled for five minutes."""
        await self._consumer.getmany(_NOTHING, timeout_ms=0)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._consumer.seek(tp, offset)

    async def commit(self, offsets: dict[TopicPartition, tuple[int, str]]) -> None:
        """For the generation that we are in now, and within our own time.

        By one attempt of the library's at a time: its own repetitions never end, go on in the next generation, where
        they would take the group back, and leave an error to nobody when they are cut off.
        """
        coordinator, generation = self._consumer._coordinator, self.generation
        if coordinator is None:
            raise foreign.CommitFailedError("it has not begun")
        entries = {tp: OffsetAndMetadata(*one) for tp, one in offsets.items()}
        async with asyncio.timeout(self._timeout):
            while True:
                await coordinator.ensure_coordinator_known()
                assignment = getattr(self._consumer._subscription.subscription, "assignment", None)
                if assignment is None or generation != self.generation or coordinator._closing.done():
                    raise foreign.CommitFailedError("what it is about is not ours any more")
                try:
                    await coordinator._do_commit_offsets(assignment, entries)
                    return
                except foreign.UnknownTopicOrPartitionError:
                    raise  # it was deleted
                except foreign.KafkaError as error:
                    if not error.retriable:
                        raise
                await asyncio.sleep(BACKOFF)

    def assign(self, positions: dict[TopicPartition, int]) -> None:
        """Without a group: read these, from there on."""
        self._consumer.assign(list(positions))
        for tp, offset in positions.items():
            self._consumer.seek(tp, offset)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, revoked: Callable[[], Awaitable[None]], assigned: Callable[[set[Any]], Awaitable[None]]) -> None:
        self._revoked = revoked
        self._assigned = assigned

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._revoked()

    async def on_partitions_assigned(self, assigned: Any) -> None:
        await self._assigned(set(assigned))


async def _say_nothing() -> None:
    pass

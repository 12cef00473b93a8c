"""Sends records: idempotent, confirmed by all replicas in sync, with a deadline and an outcome of our own.

The library's own producer repeats a record for as long as it lives, ends for good at an unexpected sequence, and takes
all others along. Here a batch that is given up costs its partition its identity, and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from aiokafka import errors as foreign
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.structs import TopicPartition

from unibus.driver import Clock
from unibus.errors import BatchError, MessageTooLarge, NotSent, OutcomeUnknown
from unibus_kafka.batch import Batch, Call, Line, split
from unibus_kafka.cluster import BACKOFF, Cluster
from unibus_kafka.failures import FOREIGN, is_too_large, refusal
from unibus_kafka.options import Compression
from unibus_kafka.records import Record

logger = logging.getLogger("unibus.kafka")

_CODECS: dict[Compression, int] = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
_STORED = (foreign.NoError, foreign.DuplicateSequenceNumber)
_IDENTITY = (
    foreign.OutOfOrderSequenceNumber,
    foreign.InvalidProducerEpoch,
    foreign.InvalidProducerIdMapping,
    foreign.UnknownProducerId,
)
"""The broker does not know our identity, or not as far as we do. It has not stored what it says so of."""
_UNCERTAIN = (foreign.RequestTimedOutError, foreign.NotEnoughReplicasAfterAppendError)
GONE_AFTER = 2.0
"""Seconds for which a topic may be missing from what the brokers list before it counts as deleted."""


class Producer:
    def __init__(self, cluster: Cluster, clock: Clock, timeout: float, compression: Compression) -> None:
        self._cluster = cluster
        self._clock = clock
        self._timeout = timeout
        self._codec = _CODECS[compression]
        self._lines: dict[TopicPartition, Line] = {}
        self._waiting: dict[Line, None] = {}
        """Those with something to send, and nothing on its way."""
        self._nodes: set[int] = set()
        """Those that have a request in hand."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: dict[Call, None] = {}
        self._pumping = False
        self._refreshing = False
        self._closed = False
        self._identity: tuple[int, int] | None = None

    async def send(self, records: Sequence[tuple[TopicPartition, Record]], limits: dict[str, int]) -> None:
        """All confirmed, or BatchError. Records of a partition are stored in their order, and in that of the calls."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        call = Call(done, self._clock.monotonic() + self._timeout)
        by_partition, too_large = split(call, records, limits, self._codec)
        for index, size in too_large.items():
            call.errors[index] = MessageTooLarge(size, limits[records[index][0].topic], "message with its metadata")
        for tp, batches in by_partition.items():
            call.batches += batches
            line = self._lines.get(tp)
            if line is None:
                line = self._lines[tp] = Line(tp)
            line.queue.extend(batches)
            if not line.busy:
                self._waiting[line] = None
        call.left = len(call.batches)
        if call.left:
            await self._outcome(call)
        if call.errors:
            raise BatchError(call.errors, len(records))

    def close(self) -> None:
        """What is under way ends as unknown, what waits as not sent."""
        self._closed = True
        for call in list(self._calls):
            self._expire(call, "the driver was closed")
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """After `close`: nothing of ours runs any more."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- a call ---------------------------------------------------------------------------------------

    async def _outcome(self, call: Call) -> None:
        self._calls[call] = None
        self._pump_soon()
        timer = self._clock.call_later(self._timeout, lambda: self._expire(call, f"within {self._timeout:g} s"))
        try:
            await call.done
        finally:
            timer.cancel()
            self._calls.pop(call, None)

    def _expire(self, call: Call, reason: str) -> None:
        for tp in {batch.tp for batch in call.batches if not batch.ended}:
            line = self._lines[tp]
            for batch in [one for one in line.queue if one.call is call]:
                if batch.under_way or batch.maybe_stored:
                    call.ended(batch, OutcomeUnknown(f"no confirmation {reason}: the message may be stored"))
                else:
                    call.ended(
                        batch, NotSent(f"it did not leave {reason}: the cluster is away, or slow; send it again")
                    )
                if not batch.under_way:  # else whoever waits for the answer sees to it
                    self._give_up(line, batch)

    def _give_up(self, line: Line, batch: Batch) -> None:
        line.give_up(batch)
        if not line.queue:
            self._waiting.pop(line, None)

    # --- to the brokers -------------------------------------------------------------------------------

    def _pump_soon(self) -> None:
        if not self._pumping and not self._closed:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """One request to every node that has none in hand, with the first batch of each of its partitions."""
        self._pumping = False
        if self._closed:
            return
        known = self._cluster.client.cluster
        by_node: dict[int, list[Line]] = {}
        for line in list(self._waiting):
            node = known.leader_for_partition(line.tp)
            if node is None or node < 0:
                self._without_leader(line, known.partitions_for_topic(line.tp.topic) is not None)
            elif node not in self._nodes:
                line.missing_since = None
                by_node.setdefault(node, []).append(line)
        for node, lines in by_node.items():
            self._nodes.add(node)
            for line in lines:
                line.busy = True
                del self._waiting[line]
            heads = [line.queue[0] for line in lines]
            self._run(self._serve(node, lines, heads), f"unibus kafka produce to {node}")

    def _without_leader(self, line: Line, exists: bool) -> None:
        now = self._clock.monotonic()
        if exists:
            line.missing_since = None
        elif line.missing_since is None:
            line.missing_since = now
        elif now - line.missing_since > GONE_AFTER:
            gone = refusal(foreign.UnknownTopicOrPartitionError, line.tp.topic, 0, 0)
            for batch in [one for one in line.queue if not one.maybe_stored]:
                batch.call.ended(batch, gone)
                self._give_up(line, batch)
            return
        self._refresh_soon()

    def _refresh_soon(self) -> None:
        if not self._refreshing:
            self._refreshing = True
            self._run(self._refresh(), "unibus kafka metadata")

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._cluster.client.force_metadata_update()
        except FOREIGN as error:
            logger.debug("cannot look who leads what: %r", error)
        await self._clock.sleep(BACKOFF)
        self._refreshing = False
        self._pump_soon()

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, node: int, lines: list[Line], batches: list[Batch]) -> None:
        again = True
        try:
            again = await self._request(node, lines, batches)
        finally:
            for line in lines:
                self._release(line)
            if again and not self._closed:
                await self._clock.sleep(BACKOFF)
            self._nodes.discard(node)
            self._pump_soon()

    def _release(self, line: Line) -> None:
        line.busy = False
        for batch in [one for one in line.queue if one.ended]:  # its time was up while it was under way
            line.give_up(batch)
        if line.queue:
            self._waiting[line] = None

    async def _request(self, node: int, lines: list[Line], batches: list[Batch]) -> bool:
        """Whether to wait a little before the next attempt."""
        client = self._cluster.client
        try:
            await self._identify(lines)
            if not await client.ready(node):
                raise foreign.NodeNotReadyError
        except foreign.ClusterAuthorizationFailedError:  # said to who may write nowhere
            for line, batch in zip(lines, batches, strict=True):
                if not batch.maybe_stored:
                    self._refused(line, batch, foreign.ClusterAuthorizationFailedError)
            return True
        except FOREIGN as error:
            logger.debug("node %s cannot be sent to: %r", node, error)
            self._refresh_soon()
            return True
        going = [(line, batch) for line, batch in zip(lines, batches, strict=True) if not batch.ended]
        if not going:
            return False
        answer = await self._exchange(node, going)
        if answer is None:
            return True
        by_partition = {line.tp: (line, batch) for line, batch in going}
        wait = False
        for topic, parts in answer.topics:
            for partition, code, *_ in parts:
                line, batch = by_partition[TopicPartition(topic, partition)]
                wait |= self._answered(line, batch, foreign.for_code(code))
        return wait

    async def _exchange(self, node: int, going: list[tuple[Line, Batch]]) -> Any:
        """The answer; None where none came."""
        by_topic: dict[str, list[tuple[int, bytes]]] = {}
        for line, batch in going:
            assert line.identity is not None
            batch.under_way = True
            data = batch.built(line.identity, line.sequence)
            by_topic.setdefault(line.tp.topic, []).append((line.tp.partition, data))
        request = ProduceRequest(None, -1, int(self._timeout * 1000), list(by_topic.items()))
        try:
            return await self._cluster.client.send(node, request)
        except foreign.NodeNotReadyError:
            return None  # the connection was gone before anything was written
        except FOREIGN as error:
            logger.debug("node %s did not answer: %r", node, error)
            for _, batch in going:
                batch.maybe_stored = True
            self._refresh_soon()
            return None
        finally:
            for _, batch in going:
                batch.under_way = False

    async def _identify(self, lines: list[Line]) -> None:
        for line in lines:
            if line.identity is None:
                if self._identity is None or self._identity == line.spent:
                    async with asyncio.timeout(self._timeout):
                        self._identity = await self._cluster.identity()
                line.identity, line.sequence = self._identity, 0

    # --- answers --------------------------------------------------------------------------------------

    def _answered(self, line: Line, batch: Batch, error: type[Exception]) -> bool:
        """Whether to wait a little before the next attempt."""
        if issubclass(error, _STORED):
            line.stored(batch)
            batch.call.ended(batch, None)
            return False
        if issubclass(error, _UNCERTAIN):
            batch.maybe_stored = True
            return True
        if issubclass(error, _IDENTITY):
            if batch.maybe_stored:
                batch.call.ended(batch, OutcomeUnknown(f"the broker has lost sight of it ({error.__name__})"))
            line.change_identity()
            return False
        if getattr(error, "retriable", False):
            if getattr(error, "invalid_metadata", False):
                self._refresh_soon()
            return True
        self._refused(line, batch, error)
        return False

    def _refused(self, line: Line, batch: Batch, error: type[Exception]) -> None:
        line.remove(batch)
        if is_too_large(error) and len(batch.records) > 1 and not batch.ended:
            line.queue.extendleft(reversed(batch.halves()))
        else:
            batch.call.ended(batch, refusal(error, line.tp.topic, batch.size, batch.limit))

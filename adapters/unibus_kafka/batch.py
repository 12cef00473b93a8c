"""What is being sent: the batches of a call, and the line of batches of a partition."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import TopicPartition

from unibus_kafka.records import Record

HEAD = 61
"""Bytes of a batch before its first record."""


class Call:
    """One call to send. `done` is set when all its batches have ended; `errors` are by index."""

    __slots__ = ("batches", "deadline", "done", "errors", "left")

    def __init__(self, done: asyncio.Future[None], deadline: float) -> None:
        self.done = done
        self.deadline = deadline
        self.errors: dict[int, Exception] = {}
        self.batches: list[Batch] = []
        self.left = 0

    def ended(self, batch: Batch, error: Exception | None) -> None:
        if batch.ended:
            return
        batch.ended = True
        if error is not None:
            self.errors.update(dict.fromkeys(batch.indices, error))
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)


class Batch:
    """Records of one partition, written together. Its records are kept, to be built again under another identity.

    ended: the caller knows its outcome. under_way: written, and not answered yet. maybe_stored: written once, and never
    answered.
    """

    __slots__ = (
        "_buffer", "_builder", "_identity", "call", "compression", "ended", "indices", "limit", "maybe_stored",
        "records", "sequence", "tp", "under_way",
    )  # fmt: skip

    def __init__(self, call: Call, tp: TopicPartition, limit: int, compression: int) -> None:
        self.call = call
        self.tp = tp
        self.limit = limit
        self.compression = compression
        self.indices: list[int] = []
        self.records: list[Record] = []
        self.ended = False
        self.under_way = False
        self.maybe_stored = False
        self.sequence = -1
        self._identity: tuple[int, int] | None = None
        self._buffer: bytes = b""
        self._builder = self._new_builder()

    def add(self, index: int, record: Record) -> bool:
        """Whether there was room."""
        if self._builder.append(len(self.records), None, record.key, record.value, record.headers) is None:
            return False
        self.indices.append(index)
        self.records.append(record)
        return True

    @property
    def size(self) -> int:
        """Bytes, before it is compressed."""
        return int(self._builder.size())

    def built(self, identity: tuple[int, int], sequence: int) -> bytes:
        """As it goes to the broker. The same bytes again, unless the identity changed."""
        if identity != self._identity or sequence != self.sequence:
            if self._identity is not None:
                self._builder = self._new_builder()
                for place, record in enumerate(self.records):
                    self._builder.append(place, None, record.key, record.value, record.headers)
            self._builder.set_producer_state(*identity, sequence)
            self._buffer = bytes(self._builder.build())
            self._identity, self.sequence = identity, sequence
        return self._buffer

    def halves(self) -> list[Batch]:
        """Where a batch is too large for the broker, though none of its records may be."""
        middle = len(self.records) // 2
        parts = []
        for indices, records in (
            (self.indices[:middle], self.records[:middle]),
            (self.indices[middle:], self.records[middle:]),
        ):
            part = Batch(self.call, self.tp, self.limit, self.compression)
            for index, record in zip(indices, records, strict=True):
                part.add(index, record)
            parts.append(part)
        self.call.left += 1
        return parts

    def _new_builder(self) -> Any:
        return DefaultRecordBatchBuilder(
            2, self.compression, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=0,
            batch_size=self.limit,
        )  # fmt: skip


class Line:
    """The batches of one partition, in the order in which they were handed over. One of them at a time is on its way,
    so that a repeated one cannot be overtaken.

    The identity is a producer's id and epoch: by it and the sequence the broker knows what it has stored already.
    """

    __slots__ = ("busy", "identity", "missing_since", "queue", "sequence", "spent", "tp")

    def __init__(self, tp: TopicPartition) -> None:
        self.tp = tp
        self.queue: deque[Batch] = deque()
        self.busy = False
        self.identity: tuple[int, int] | None = None
        self.spent: tuple[int, int] | None = None
        self.sequence = 0
        self.missing_since: float | None = None

    def stored(self, batch: Batch) -> None:
        self.sequence = (batch.sequence + len(batch.records)) & 0x7FFFFFFF
        self.remove(batch)

    def give_up(self, batch: Batch) -> None:
        """If it may be stored, the next under the same sequence could be taken for it, and dropped."""
        if batch.maybe_stored:
            self.change_identity()
        self.remove(batch)

    def change_identity(self) -> None:
        self.spent, self.identity = self.identity, None

    def remove(self, batch: Batch) -> None:
        if batch in self.queue:
            self.queue.remove(batch)


def split(
    call: Call, records: Sequence[tuple[TopicPartition, Record]], limits: dict[str, int], compression: int
) -> tuple[dict[TopicPartition, list[Batch]], dict[int, int]]:
    """Batches by partition, and the sizes of records that are too large, by index."""
    batches: dict[TopicPartition, list[Batch]] = {}
    too_large: dict[int, int] = {}
    for index, (tp, record) in enumerate(records):
        found = batches.get(tp)
        if found is None:
            batches[tp] = found = [Batch(call, tp, limits[tp.topic], compression)]
        elif not found[-1].add(index, record):
            found.append(Batch(call, tp, limits[tp.topic], compression))
        else:
            continue
        batch = found[-1]
        batch.add(index, record)
        if batch.size > batch.limit:  # a builder takes its first record whatever its size
            too_large[index] = batch.size
            found.pop()
            if not found:
                del batches[tp]
    return batches, too_large

"""A log: partitions of numbered messages that several groups read, each at its own pace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias
from zlib import crc32

from unibus.driver import Outbound

if TYPE_CHECKING:
    from unibus.memory.cursor import Cursor

Record: TypeAlias = tuple[Outbound, float, float, str | None]
"""The message, when it was sent (seconds since 1970), when it was appended (monotonic), its topic."""

Kind: TypeAlias = Literal["queue", "topic", "group"]


class Partition:
    """Messages in order, from offset `base` up to `end`, which is the next one's."""

    __slots__ = ("base", "end", "index", "keep", "log", "readers", "records")

    def __init__(self, log: str, index: int, keep: int) -> None:
        self.log = log
        self.index = index
        self.keep = keep
        self.base = 0
        self.end = 0
        self.records: dict[int, Record] = {}
        self.readers: list[Cursor] = []

    def append(self, record: Record) -> None:
        self.records[self.end] = record
        self.end += 1

    def arrived(self) -> None:
        """Something was appended: tell the readers, or drop it where nobody will read it."""
        for cursor in self.readers:
            cursor.wake()
        if not self.readers:
            self.trim()

    def trim(self) -> None:
        """Drop what all readers have committed, but for the newest `keep` of it."""
        low = min((cursor.committed for cursor in self.readers), default=self.end)
        records, base, end = self.records, self.base, low - self.keep
        while base < end:
            del records[base]
            base += 1
        self.base = base


class Log:
    """The partitions of a queue, of a topic, or of what is sent to one group alone."""

    __slots__ = ("_turn", "delayed", "kind", "name", "partitions")

    def __init__(self, name: str, kind: Kind, partitions: int, keep: int) -> None:
        self.name = name
        self.kind = kind
        self.partitions = [Partition(name, index, keep) for index in range(partitions)]
        self.delayed = 0
        self._turn = 0

    def append(self, records: Sequence[Record]) -> None:
        """Messages of one key go to one partition, in their order; those without a key take turns."""
        touched: dict[Partition, None] = {}
        count = len(self.partitions)
        for record in records:
            key = record[0].key
            if key is None:
                self._turn = (self._turn + 1) % count
                partition = self.partitions[self._turn]
            else:
                # Not hash(): it differs from process to process, and runs must be repeatable.
                partition = self.partitions[crc32(key.encode()) % count]
            partition.append(record)
            touched[partition] = None
        for partition in touched:
            partition.arrived()

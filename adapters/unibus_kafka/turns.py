"""Whose records are taken next: those of each partition in its turn.

Left to itself the library brings records of one partition for as long as it has any, and what waits in the others, as
what a dead member left, would wait until that has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aiokafka.structs import TopicPartition

from unibus_kafka.consumer import Member


class Turns:
    def __init__(self) -> None:
        self._served: set[TopicPartition] = set()
        """In this round."""

    async def poll(
        self, member: Member, partitions: Sequence[TopicPartition], seconds: float, most: int
    ) -> dict[TopicPartition, list[Any]]:
        """Of those that had no turn in this round, if there are any; else a new round begins."""
        found: dict[TopicPartition, list[Any]] = {}
        waiting = [tp for tp in partitions if tp not in self._served]
        if 0 < len(waiting) < len(partitions):
            found = await member.poll(waiting, 0, most)
        if not found:
            self._served.clear()
            found = await member.poll(partitions, seconds, most)
        self._served.update(found)
        return found

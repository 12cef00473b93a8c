"""Whose records are taken next: those of the partitions that gave fewer.

Left to itself the library brings records of one partition for as long as it has any, and what waits in the others, as
what a dead member left, would wait until that has none. Counted are records, and not polls: where places become free
one by one, a partition whose turn is always with the first of them would give one record where the others give all
the rest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from aiokafka.structs import TopicPartition

Found: TypeAlias = dict[TopicPartition, list[Any]]
Poll: TypeAlias = Callable[[Sequence[TopicPartition], float, int], Awaitable[Found]]
"""Of these partitions, for so many seconds, so many records."""


class Turns:
    def __init__(self) -> None:
        self._given: dict[TopicPartition, int] = {}

    async def poll(self, poll: Poll, partitions: Sequence[TopicPartition], seconds: float, most: int) -> Found:
        """Of those that are behind, if they have any; else of all, who are even again."""
        least = min(self._given.values(), default=0)
        given = self._given = {tp: self._given.get(tp, least) for tp in partitions}  # who joins is not behind
        furthest = max(given.values(), default=0)
        behind = [tp for tp in partitions if given[tp] < furthest]
        found = await poll(behind, 0, most) if behind else {}
        if not found:
            given.update(dict.fromkeys(given, 0))
            found = await poll(partitions, seconds, most)
        for tp, records in found.items():
            given[tp] += len(records)
        return found

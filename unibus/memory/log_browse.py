"""Looking at logs without reading them as a group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from unibus.driver import Delivery
from unibus.memory.log import Partition


def browse_partitions(
    places: Sequence[tuple[Partition, int]], name: str, after: str | None, limit: int
) -> tuple[list[Delivery], str | None]:
    """What the partitions hold from these offsets on, one partition after the other.

    The cursor `after` is `log/partition/offset`, of the last message of the page before.
    """
    found = list(islice(_walk(places, after), limit + 1))
    shown = []
    for partition, offset in found[:limit]:
        message, sent, _, topic = partition.records[offset]
        shown.append(
            Delivery(
                message.body, message.attributes, message.headers, message.key, message.message_id,
                topic or name, sent, None, False, None,
            )
        )  # fmt: skip
    if len(found) <= limit:
        return shown, None
    partition, offset = found[limit - 1]
    return shown, f"{partition.log}/{partition.index}/{offset}"


def _walk(places: Sequence[tuple[Partition, int]], after: str | None) -> Iterator[tuple[Partition, int]]:
    log, index, last = after.rsplit("/", 2) if after is not None else ("", "-1", "-1")
    for partition, start in places:
        place = (partition.log, partition.index)
        if place < (log, int(index)):
            continue
        first = max(start, int(last) + 1) if place == (log, int(index)) else start
        for offset in range(max(first, partition.base), partition.end):
            yield partition, offset

"""Whether what exists is what was described."""

from __future__ import annotations

from unibus.driver import Ordering, Queue, Source, Topic, TopicSubscription
from unibus.errors import TopologyMismatch
from unibus.memory.broker import physical_name


def check_same(source: Source, ordering: Ordering, partitions: int | None) -> None:
    """Compares what both sides say."""
    if source.ordering != ordering:
        _differs(source, "ordering", ordering, source.ordering)
    if isinstance(source, Queue):
        check_partitions(source, partitions)


def check_partitions(address: Queue | Topic, partitions: int | None) -> None:
    if address.partitions is not None and partitions not in (None, address.partitions):
        _differs(address, "partitions", partitions, address.partitions)


def check_patterns(wanted: TopicSubscription, existing: TopicSubscription | None) -> None:
    if existing is not None and set(existing.patterns) != set(wanted.patterns):
        _differs(wanted, "patterns", sorted(existing.patterns), sorted(wanted.patterns))


def _differs(address: Source | Topic, argument: str, existing: object, wanted: object) -> None:
    raise TopologyMismatch(
        f"{physical_name(address)!r} exists with {argument}={existing!r}, not {argument}={wanted!r}; "
        "use what exists, or another name"
    )

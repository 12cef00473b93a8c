"""What a broker can do, as rows to read: for `unibus check`, and for the table of the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unibus.driver import Capabilities, Confirmed, Guarantee, Limits, Support

_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_CONFIRMED: Mapping[Confirmed, str] = {
    "memory": "is in memory: gone with the server's process",
    "disk": "is on disk: survives a kill of the server",
    "replicas": "is on several servers: survives the loss of one",
}


@dataclass(frozen=True, slots=True)
class Row:
    """support: None where the row is a figure. fields: what of Capabilities it tells."""

    name: str
    support: Support | None
    detail: str
    fields: tuple[str, ...]


def capability_rows(capabilities: Capabilities) -> list[Row]:
    """Every field of the capabilities is in one row."""
    c = capabilities

    def able(name: str, field: str, detail: str) -> Row:
        support: Support = getattr(c, field)
        return Row(name, support, detail, (field,))

    return [
        Row("queues", "native", _guarantee(c.queue_guarantee), ("queue_guarantee",)),
        Row("topics", "native", _guarantee(c.topic_guarantee), ("topic_guarantee",)),
        Row("what is confirmed", None, _CONFIRMED[c.confirmed], ("confirmed",)),
        able("groups", "groups", "all get each message, their members share it"),
        able("ephemeral subscribers", "ephemeral", "hear what is published while connected"),
        able("patterns", "patterns", "`*` is one word of a topic, `#` any number"),
        able("queues ordered by key", "queue_ordering", "one key at a time, in the order of sending"),
        able("topics ordered by key", "topic_ordering", "one key at a time, in the order of publishing"),
        able("start at the earliest", "start_earliest", "a new group gets what is still kept"),
        Row("delayed messages", c.delay.support, _delay(c), ("delay",)),
        able("delayed give-back", "nack_delay", "what is given back may come again later"),
        able("delivery count", "delivery_count", "the broker counts how often it delivered"),
        able("delivery count, ordered by key", "ordered_delivery_count", "the same for addresses in order"),
        able("priority", "priority", "what is more urgent goes first"),
        able("browse", "browse", "look at a queue without touching it"),
        Row("a settlement", None, _settlement(c.positional), ("positional",)),
        able("its own dead letters", "native_dead_letter", "the broker's policy, beside ours"),
        Row("lease of a delivery", None, _lease(c.lease), ("lease",)),
        Row(
            "longest hold: to begin, handle, park",
            None,
            duration(c.hold) if c.hold is not None else "no limit",
            ("hold",),
        ),
        Row("largest message", None, _body(c), ("max_body", "body_limit_counts_metadata")),
        Row("one send", None, _limits(c.send), ("send",)),
        Row("one receive", None, _limits(c.receive), ("receive",)),
        Row("one settle", None, _limits(c.settle), ("settle",)),
        Row("to be known", None, "; ".join(c.notes) or "nothing else", ("notes",)),
    ]


def duration(seconds: float) -> str:
    """Never more than it is; of ten days or hours and more in whole ones."""
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= size and (seconds % size == 0 or (seconds >= 10 * size and size >= _HOUR)):
            return f"{seconds // size:g} {unit}"
    return f"{seconds:g} s" if seconds >= 1 or seconds == 0 else f"{seconds * 1000:g} ms"


def size(count: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor and count % factor == 0:
            return f"{count // factor} {unit}"
    return f"{count:,} bytes"


def _guarantee(guarantee: Guarantee) -> str:
    return guarantee.replace("_", " ")


def _delay(c: Capabilities) -> str:
    if c.delay.support == "none":
        return "a message is there at once"
    longest = "any delay" if c.delay.max is None else f"up to {duration(c.delay.max)}"
    return f"{longest}, " + (f"late by at most {duration(c.delay.precision)}" if c.delay.precision else "to the moment")


def _settlement(positional: bool) -> str:
    return "moves a position in a log" if positional else "is of one message"


def _lease(lease: float | None) -> str:
    return "as long as the connection lives" if lease is None else f"{duration(lease)}, renewed while it is held"


def _body(c: Capabilities) -> str:
    if c.max_body is None:
        return "no limit"
    counted = "with attributes and headers" if c.body_limit_counts_metadata else "without attributes and headers"
    return f"{size(c.max_body)}, {counted}"


def _limits(limits: Limits) -> str:
    parts = [f"{limits.messages:,} messages"]
    if limits.bytes is not None:
        parts.append(size(limits.bytes))
    parts.append("one call at a time" if limits.calls == 1 else f"{limits.calls:,} calls at once")
    if limits.min_messages > 1:
        parts.append(f"the next from {limits.min_messages} messages")
    return ", ".join(parts)

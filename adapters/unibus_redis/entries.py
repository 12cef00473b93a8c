"""A message as an entry of a stream.

`data` is the body and `ce` the context (attributes, id, key, topic) as CloudEvents' JSON. Every other field is a
header of the user; one that is called like a field of ours is written with `h:` before it. So a program without
unibus reads `data`, and writes `XADD orders * data '{…}'` with any other fields. `unibus.returned` and `unibus.sent`
are the driver's notes on an entry that was given back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from unibus.driver import Delivery, Outbound
from unibus_redis import context

BODY, CONTEXT = "data", "ce"
RETURNED, SENT = "unibus.returned", "unibus.sent"
_OURS = frozenset({BODY, CONTEXT, RETURNED, SENT})
_ESCAPE = "h:"
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})

Field = str | bytes


class Entry:
    """The token: id, fields, count of deliveries, and until when it is ours (monotonic seconds)."""

    __slots__ = ("count", "expires", "fields", "id")

    def __init__(self, entry_id: bytes, fields: Sequence[bytes], count: int, expires: float) -> None:
        self.id = entry_id
        self.fields = fields
        self.count = count
        self.expires = expires

    @property
    def place(self) -> tuple[int, int]:
        """Entries of a stream in their order."""
        milliseconds, _, number = self.id.partition(b"-")
        return int(milliseconds), int(number)


def is_plain(message: Outbound) -> bool:
    """Whether it has a body and no headers: the shape of nearly all, which scripts take without its field names."""
    return message.body is not None and not message.headers


def fields_of(message: Outbound, topic: str | None) -> list[Field]:
    fields: list[Field] = [CONTEXT, context.write(message, topic)]
    if message.body is not None:
        fields += [BODY, message.body]
    for name, value in message.headers.items():
        fields += [_ESCAPE + name if name in _OURS else name, value]
    return fields


def deliveries_of(
    found: Iterable[tuple[bytes, Sequence[bytes]]], address: str, expires: float
) -> dict[bytes, Delivery]:
    """Entries that nobody had before, by their ids. This is the path of nearly every message: keep it short."""
    read, deliveries = context.read, {}
    moment, sent = b"-", 0.0  # shared by those that came in one millisecond
    for entry_id, fields in found:
        if not entry_id.startswith(moment):
            milliseconds, dash, _ = entry_id.partition(b"-")
            moment, sent = milliseconds + dash, float(milliseconds) / 1000
        entry = Entry(entry_id, fields, 1, expires)
        if len(fields) == 4 and fields[0] == b"ce" and fields[2] == b"data":
            known = read(fields[1].decode("utf-8", "replace"))
            if known is not None:
                message_id, key, topic, attributes = known
                deliveries[entry_id] = Delivery(
                    fields[3], attributes, _NO_HEADERS, key, message_id or entry_id.decode(), topic or address, sent,
                    1, False, entry, entry,
                )  # fmt: skip
                continue
        deliveries[entry_id] = delivery_of(entry, address)
    return deliveries


def delivery_of(entry: Entry, address: str) -> Delivery:
    """Any entry. `entry.count` becomes the count of all deliveries: of the entry, and of what it was before it was
    given back."""
    pairs = iter(entry.fields)
    values = {name.decode(errors="replace"): value for name, value in zip(pairs, pairs, strict=True)}
    body = values.pop(BODY, None)
    known = context.read(values.pop(CONTEXT, b"{}").decode(errors="replace")) or ("", None, None, {})
    message_id, key, topic, attributes = known
    entry.count += _number(values.pop(RETURNED, None))
    sent = _number(values.pop(SENT, None)) / 1000 or float(entry.id.partition(b"-")[0]) / 1000
    return Delivery(
        body, attributes, _headers(values.items()), key, message_id or entry.id.decode(), topic or address, sent,
        entry.count, entry.count > 1, entry, entry,
    )  # fmt: skip


def _headers(fields: Iterable[tuple[str, bytes]]) -> Mapping[str, str]:
    return {name.removeprefix(_ESCAPE): value.decode(errors="replace") for name, value in fields}


def _number(text: bytes | None) -> int:
    return int(text[:15]) if text is not None and text.isdigit() else 0


def again(delivery: Delivery) -> Delivery:
    """The same entry, to be handed out once more by the driver itself."""
    old: Entry = delivery.token
    entry = Entry(old.id, old.fields, old.count + 1, old.expires)
    return Delivery(
        delivery.body, delivery.attributes, delivery.headers, delivery.key, delivery.message_id,
        delivery.address, delivery.sent_at, entry.count, True, entry, entry,
    )  # fmt: skip

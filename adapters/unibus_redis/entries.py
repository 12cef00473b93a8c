"""A message as an entry of a stream.

`data` is the body, `topic` where it was published, `ce_…` are the attributes under their CloudEvents
names, `h:…` the user's headers; `returned` and `sent` are the driver's notes on an entry that was
given back. Any other field, of a foreign producer, is a header.
"""

from __future__ import annotations

from collections.abc import Sequence

from unibus.driver import Delivery, Outbound


class Entry:
    """The token: id, count of deliveries, and until when it is ours (monotonic seconds)."""

    __slots__ = ("count", "expires", "fields", "id")

    def __init__(self, entry_id: str, fields: Sequence[bytes], count: int, expires: float) -> None:
        self.id = entry_id
        self.fields = fields
        self.count = count
        self.expires = expires

    @property
    def place(self) -> tuple[int, int]:
        """Entries of a stream in their order."""
        milliseconds, _, number = self.id.partition("-")
        return int(milliseconds), int(number)


def fields_of(message: Outbound, topic: str | None) -> list[str | bytes]:
    fields: list[str | bytes] = ["ce_id", message.message_id]
    if message.body is not None:
        fields += ["data", message.body]
    if message.key is not None:
        fields += ["ce_partitionkey", message.key]
    if topic is not None:
        fields += ["topic", topic]
    for name, value in message.attributes.items():
        fields += ["ce_" + name, value]
    for name, value in message.headers.items():
        fields += ["h:" + name, value]
    return fields


def delivery_of(entry: Entry, address: str) -> Delivery:
    """`entry.count` becomes the count of all deliveries: of the entry, and of what it was before it was given back."""
    body: bytes | None = None
    attributes: dict[str, str] = {}
    headers: dict[str, str] = {}
    notes: dict[str, str] = {}
    pairs = iter(entry.fields)
    for raw_name, raw in zip(pairs, pairs, strict=True):
        name = raw_name.decode(errors="replace")
        if name == "data":
            body = raw
            continue
        value = raw.decode(errors="replace")
        if name.startswith("ce_"):
            attributes[name[3:]] = value
        elif name.startswith("h:"):
            headers[name[2:]] = value
        elif name in ("topic", "returned", "sent"):
            notes[name] = value
        else:
            headers[name] = value
    entry.count += _number(notes.get("returned"))
    sent = _number(notes.get("sent")) or entry.place[0]
    return Delivery(
        body, attributes, headers, attributes.pop("partitionkey", None), attributes.pop("id", entry.id),
        notes.get("topic", address), sent / 1000, entry.count, entry.count > 1, entry, entry,
    )  # fmt: skip


def _number(text: str | None) -> int:
    return int(text[:15]) if text is not None and text.isascii() and text.isdigit() else 0


def again(delivery: Delivery) -> Delivery:
    """The same entry, to be handed out once more by the driver itself."""
    old: Entry = delivery.token
    entry = Entry(old.id, old.fields, old.count + 1, old.expires)
    return Delivery(
        delivery.body, delivery.attributes, delivery.headers, delivery.key, delivery.message_id,
        delivery.address, delivery.sent_at, entry.count, True, entry, entry,
    )  # fmt: skip

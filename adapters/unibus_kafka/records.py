"""A message as a record, by the CloudEvents binding for Kafka: `ce_…` headers and `content-type`."""

from __future__ import annotations

from typing import Any

from unibus.driver import Delivery, Outbound

_TOPIC = "unibus_topic"
_KEYED = "ce_partitionkey"
_CONTENT_TYPE = "datacontenttype"


class Place:
    """The token: a partition as it was assigned to us this time, and an offset."""

    __slots__ = ("offset", "partition")

    def __init__(self, partition: Any, offset: int) -> None:
        self.partition = partition
        self.offset = offset


def record_of(message: Outbound, topic: str | None) -> dict[str, Any]:
    """Arguments of the client's `send`, less the topic."""
    headers = [("ce_specversion", b"1.0"), ("ce_id", message.message_id.encode())]
    for name, value in message.attributes.items():
        headers.append(("content-type" if name == _CONTENT_TYPE else "ce_" + name, value.encode()))
    for name, value in message.headers.items():
        headers.append(("h_" + name if name in ("content-type",) else name, value.encode()))
    if topic is not None:
        headers.append((_TOPIC, topic.encode()))
    if message.key is not None:
        headers.append((_KEYED, message.key.encode()))
    key = None if message.key is None else message.key.encode()
    return {"value": message.body, "key": key, "headers": headers}


def delivery_of(record: Any, partition: Any, own_topic: str, address: str, *, again: bool) -> Delivery:
    """address: what a record of `own_topic`, our queue or what is sent to our group alone, is called without a note."""
    attributes: dict[str, str] = {}
    headers: dict[str, str] = {}
    topic = address if record.topic == own_topic else record.topic
    for name, raw in record.headers:
        value = (raw or b"").decode(errors="replace")
        if name == _TOPIC:
            topic = value
        elif name == "content-type":
            attributes[_CONTENT_TYPE] = value
        elif name.startswith("ce_"):
            attributes[name[3:]] = value
        else:
            headers[name.removeprefix("h_") if name == "h_content-type" else name] = value
    attributes.pop("specversion", None)
    key = attributes.pop("partitionkey", None)
    if key is None and record.key is not None:
        key = record.key.decode(errors="replace")
    message_id = attributes.pop("id", None) or f"{record.topic}-{record.partition}-{record.offset}"
    return Delivery(
        record.value, attributes, headers, key, message_id, topic, record.timestamp / 1000, None, again,
        Place(partition, record.offset), record,
    )  # fmt: skip

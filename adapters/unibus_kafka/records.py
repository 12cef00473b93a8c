"""A message as a record, by the CloudEvents binding for Kafka: `ce_…` headers and `content-type`.

Read are both of its modes: binary, as we write it, and structured, one JSON document as the value.
"""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from unibus.driver import Delivery, Outbound

Headers: TypeAlias = list[tuple[str, bytes]]

TOPIC = "unibus_topic"
"""The topic that a message was first published to, where it is not the record's own."""
QUEUE = "unibus_queue"
"""On what was sent to a queue: there a topic of the same kind as others, which patterns may match."""
DUE = "unibus_due"
"""On the way through the tiers of delay: when it is due, in ms since 1970."""
_ESCAPED = "unibus_h_"
"""In front of a header of the user's that would be taken for one of ours."""
_CONTENT_TYPE = "datacontenttype"
_STRUCTURED = "application/cloudevents+json"
_SPECVERSION = ("ce_specversion", b"1.0")
_TO_A_QUEUE = (QUEUE, b"1")
# Of values that are alike in many messages; others would only fill the cache.
_CONSTANT = frozenset(("type", "source", "datacontenttype", "schemaversion", "dataschema"))


class Record(NamedTuple):
    """What a message becomes."""

    key: bytes | None
    value: bytes | None
    headers: Headers


class Place:
    """The token: a partition as it was assigned to us this time, and an offset."""

    __slots__ = ("offset", "partition")

    def __init__(self, partition: Any, offset: int) -> None:
        self.partition = partition
        self.offset = offset


def record_of(message: Outbound, topic: str | None, *, to_queue: bool = False) -> Record:
    """topic: to be told, where the record's own topic is not where the message was published."""
    headers: Headers = [_SPECVERSION, ("ce_id", message.message_id.encode())]
    for name, value in message.attributes.items():
        headers.append(_constant(name, value) if name in _CONSTANT else ("ce_" + name, value.encode()))
    for name, value in message.headers.items():
        headers.append((_escaped(name), value.encode(errors="surrogateescape")))
    if topic is not None:
        headers.append((TOPIC, topic.encode()))
    if to_queue:
        headers.append(_TO_A_QUEUE)
    key = message.key
    return Record(None if key is None else key.encode(errors="surrogateescape"), message.body, headers)


def delivery_of(  # noqa: C901 - one loop, since it runs for every header of every message
    record: Any, token: Place, address: str | None, *, count: int, again: bool
) -> Delivery:
    """address: what the record's topic is called where the record does not say; None is the topic's own name."""
    attributes: dict[str, str] = {}
    headers: dict[str, str] = {}
    topic: str | None = None
    for name, raw in record.headers:
        if name[:3] == "ce_":
            spelled = name[3:]
            if raw is None:
                continue
            attributes[spelled] = _text(raw) if spelled in _CONSTANT else raw.decode(errors="replace")
        elif name == "content-type":
            attributes[_CONTENT_TYPE] = _text(raw or b"")
        elif name[:7] == "unibus_":
            if name == TOPIC:
                topic = (raw or b"").decode(errors="replace")
            elif name.startswith(_ESCAPED):
                headers[name[len(_ESCAPED) :]] = (raw or b"").decode(errors="surrogateescape")
        else:
            # Foreign bytes that are no text come out as they went in, should the message become a dead letter.
            headers[name] = (raw or b"").decode(errors="surrogateescape")
    body = record.value
    if "specversion" in attributes:
        del attributes["specversion"]
    elif _CONTENT_TYPE in attributes and attributes[_CONTENT_TYPE].startswith(_STRUCTURED):
        body, attributes = _opened(body, attributes)
    message_id = attributes.pop("id", None) or f"{record.topic}-{record.partition}-{record.offset}"
    key = attributes.pop("partitionkey", None)
    if record.key is not None:
        key = record.key.decode(errors="surrogateescape")
    return Delivery(
        body, attributes, headers, key, message_id, topic or address or record.topic, record.timestamp / 1000,
        count, again, token, record,
    )  # fmt: skip


def was_sent_to_queue(headers: Any) -> bool:
    for name, _ in headers:  # noqa: SIM110 - it runs for every message of a group
        if name == QUEUE:
            return True
    return False


def due_of(headers: Any) -> bytes | None:
    return next((value for name, value in headers if name == DUE), None)


def with_due(headers: Any, due: float | None) -> Headers:
    """Headers of a record on its way through the tiers, or at the end of it."""
    kept = [(name, value) for name, value in headers if name != DUE]
    if due is not None:
        kept.append((DUE, str(round(due * 1000)).encode()))
    return kept


def _opened(body: bytes | None, attributes: dict[str, str]) -> tuple[bytes | None, dict[str, str]]:
    """The structured mode. What is no such document stays as it is, for whoever decodes it."""
    try:
        event = json.loads(body or b"")
        if not isinstance(event, dict) or "specversion" not in event:
            return body, attributes
        raw = base64.b64decode(event["data_base64"], validate=True) if "data_base64" in event else None
    except (ValueError, TypeError):
        return body, attributes
    if raw is None and "data" in event:
        data = event["data"]
        textual = isinstance(data, str) and not _is_json(event.get(_CONTENT_TYPE))
        raw = data.encode() if textual else json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
    named = {name: value for name, value in event.items() if name not in ("specversion", "data", "data_base64")}
    return raw, {name: value if isinstance(value, str) else json.dumps(value) for name, value in named.items()}


def _is_json(content_type: object) -> bool:
    """Without a content type it is JSON, says the format."""
    if not isinstance(content_type, str):
        return True
    kind = content_type.partition(";")[0].strip()
    return kind.endswith(("/json", "+json"))


@lru_cache(maxsize=1024)
def _constant(name: str, value: str) -> tuple[str, bytes]:
    return "content-type" if name == _CONTENT_TYPE else "ce_" + name, value.encode()


@lru_cache(maxsize=1024)
def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


@lru_cache(maxsize=1024)
def _escaped(name: str) -> str:
    ours = name.startswith(("ce_", "unibus_")) or name == "content-type"
    return _ESCAPED + name if ours else name

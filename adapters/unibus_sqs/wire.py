"""A message as SQS and SNS carry it: text, and two attributes: `unibus` with all of ours, `unibus-topic`."""

from __future__ import annotations

import base64
import json
import re
import uuid
from typing import Any, Literal

from unibus.driver import Delivery, Outbound, Source

ENVELOPE = "unibus"
TOPIC = "unibus-topic"

_TEXT = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
"""What XML can carry as it is; a carriage return would come back as a line feed."""

_NOTHING = "-"
"""A body must not be empty."""

Form = Literal["text", "base64", "none"]


class Handle:
    """The token: the receipt handle of the newest receive, and until when it is ours (monotonic seconds)."""

    __slots__ = ("expires", "limit", "receipt")

    def __init__(self, receipt: str, expires: float, limit: float) -> None:
        self.receipt = receipt
        self.expires = expires
        self.limit = limit


def entry_of(message: Outbound, place: int, topic: str | None, *, body: str, ordered: bool, direct: bool) -> Any:
    """One entry of a batch. body: how the call names it. direct: for one consumer alone, whatever its patterns."""
    text, form = _text_of(message.body)
    envelope: dict[str, Any] = {"a": {**message.attributes, "id": message.message_id}, "form": form}
    if message.headers:
        envelope["h"] = dict(message.headers)
    if message.key is not None:
        envelope["a"]["partitionkey"] = message.key
    if direct:
        envelope["direct"] = True
    attributes = {ENVELOPE: _string(json.dumps(envelope))}
    if topic is not None:
        attributes[TOPIC] = _string(topic)
    entry = {"Id": str(place), body: text, "MessageAttributes": attributes}
    if ordered:
        # A fresh id each time: the five minutes of deduplication would swallow a message that is sent again.
        entry["MessageDeduplicationId"] = uuid.uuid4().hex
        entry["MessageGroupId"] = group_id(message.key)
    return entry


def group_id(key: str | None) -> str:
    """SQS takes some ASCII only; without a key nothing waits for anything."""
    return uuid.uuid4().hex if key is None else uuid.uuid5(uuid.NAMESPACE_OID, key).hex


def size_of(entry: Any, body: str) -> int:
    size = len(entry[body].encode())
    for name, attribute in entry["MessageAttributes"].items():
        size += len(name) + len("String") + len(attribute["StringValue"].encode())
    return size


def delivery_of(raw: Any, source: Source, expires: float, limit: float) -> tuple[Delivery, bool]:
    """The delivery, and whether it was sent to this source directly."""
    attributes = {name: value.get("StringValue", "") for name, value in raw.get("MessageAttributes", {}).items()}
    envelope = _envelope(attributes.pop(ENVELOPE, None))
    topic = attributes.pop(TOPIC, None)
    ours: dict[str, str] = envelope.get("a", {})
    headers: dict[str, str] = {**attributes, **envelope.get("h", {})}
    told = raw.get("Attributes", {})
    count = int(told.get("ApproximateReceiveCount", "1"))
    sent = told.get("SentTimestamp")
    key, message_id = ours.pop("partitionkey", None), ours.pop("id", raw["MessageId"])
    delivery = Delivery(
        _body_of(raw["Body"], envelope.get("form", "text")), ours, headers, key, message_id, topic or source.name,
        int(sent) / 1000 if sent else None, count, count > 1, Handle(raw["ReceiptHandle"], expires, limit), raw,
    )  # fmt: skip
    return delivery, topic is None or bool(envelope.get("direct"))


def _text_of(body: bytes | None) -> tuple[str, Form]:
    if body is None:
        return _NOTHING, "none"
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if _TEXT.fullmatch(text):
        return text, "text"
    return base64.b64encode(body).decode() or _NOTHING, "base64"


def _body_of(text: str, form: str) -> bytes | None:
    if form == "none":
        return None
    if form == "base64":
        return b"" if text == _NOTHING else base64.b64decode(text)
    return text.encode()


def _string(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}


def _envelope(text: str | None) -> dict[str, Any]:
    """Strictly: what is not ours, or is damaged, is a plain message."""
    try:
        envelope = json.loads(text) if text else {}
    except ValueError:
        return {}
    if not isinstance(envelope, dict) or not all(
        isinstance(part, dict) and all(isinstance(value, str) for value in part.values())
        for part in (envelope.get("a", {}), envelope.get("h", {}))
    ):
        return {}
    return envelope

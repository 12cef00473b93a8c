"""A message as SQS and SNS carry it: text and attributes.

Two attributes are ours: `unibus`, a JSON object with all that has no place of its own, and `unibus-topic`. Headers of
the user are attributes too, as long as there is room and SQS takes them as they are; the others are in `unibus`. A
program that knows nothing of unibus reads the body as it was sent, and its own attributes are headers here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from unibus.driver import Delivery, Outbound, Source
from unibus_sqs import limits, notifications

ENVELOPE = "unibus"
TOPIC = "unibus-topic"

_OURS = 2
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


class Received:
    """A delivery and what the driver alone must know of it. direct: sent to this source, whatever its patterns.
    left: seconds of its delay that are still to come."""

    __slots__ = ("delivery", "direct", "left")

    def __init__(self, delivery: Delivery, direct: bool, left: float) -> None:
        self.delivery = delivery
        self.direct = direct
        self.left = left


# --- out --------------------------------------------------------------------------------------------------


def entry_of(message: Outbound, place: int, topic: str | None, *, body: str, ordered: bool, direct: bool) -> Any:
    """One entry of a batch. body: how the call names it. direct: for one consumer alone, whatever its patterns."""
    text, form = _text_of(message.body)
    envelope: dict[str, Any] = {"a": {**message.attributes, "id": message.message_id}}
    if form != "text":
        envelope["form"] = form
    if message.key is not None:
        envelope["a"]["partitionkey"] = message.key
    if direct:
        envelope["direct"] = True
    attributes: dict[str, Any] = {}
    packed = _headers(message.headers, attributes)
    if packed:
        envelope["h"] = packed
    if topic is not None:
        attributes[TOPIC] = _string(topic)
    entry: dict[str, Any] = {"Id": str(place), body: text, "MessageAttributes": attributes}
    if ordered:
        entry["MessageDeduplicationId"] = deduplication_id(message, direct=direct)
        entry["MessageGroupId"] = group_id(message)
    elif message.delay > 0:
        delay_entry(entry, envelope, message.delay)
    attributes[ENVELOPE] = _string(_json(envelope))
    return entry


def delay_entry(entry: dict[str, Any], envelope: dict[str, Any], delay: float) -> None:
    """The whole of a longer delay stands in the envelope: who receives the message before its time sends it on."""
    whole = -int(-delay // 1)
    entry["DelaySeconds"] = min(whole, limits.MAX_DELAY)
    if whole > limits.MAX_DELAY:
        envelope["delay"] = whole
    else:
        envelope.pop("delay", None)


def sent_on(raw: Any, place: int, left: float) -> Any:
    """A message whose delay is not over, for the next stretch of it."""
    attributes = dict(raw["MessageAttributes"])
    envelope = envelope_of(attributes[ENVELOPE].get("StringValue"))
    entry: dict[str, Any] = {"Id": str(place), "MessageBody": raw["Body"], "MessageAttributes": attributes}
    delay_entry(entry, envelope, left)
    attributes[ENVELOPE] = _string(_json(envelope))
    return entry


def deduplication_id(message: Outbound, *, direct: bool) -> str:
    """The same for a message that is sent again as it was, since the first time may have arrived. Another one for its
    next attempt, its replay from the dead letters, and another message under the same id: within five minutes SQS
    would confirm them and throw them away. Hence the id alone does not do; all that tells them apart counts in."""
    told = [message.message_id, message.key, message.topic, direct, sorted(message.attributes.items())]
    digest = hashlib.sha256(_json([*told, sorted(message.headers.items())]).encode())
    digest.update(b"" if message.body is None else b"\0" + message.body)
    return digest.hexdigest()


def group_id(message: Outbound) -> str:
    """SQS takes some ASCII only. A message without a key is a group of its own, as it waits for nothing; the same one
    when it is sent again, since duplicates are found within a group."""
    if message.key is None:
        return uuid.uuid5(uuid.NAMESPACE_URL, message.message_id).hex
    return uuid.uuid5(uuid.NAMESPACE_OID, message.key).hex


def size_of(entry: Any, body: str) -> int:
    """Bytes as AWS counts them: the body, and names, types and values of the attributes."""
    size = len(entry[body].encode())
    for name, attribute in entry["MessageAttributes"].items():
        value = attribute.get("StringValue")
        size += len(name.encode()) + len(attribute["DataType"])
        size += len(value.encode()) if value is not None else len(attribute["BinaryValue"])
    return size


def _headers(headers: Mapping[str, str], attributes: dict[str, Any]) -> dict[str, str]:
    """Adds what may be an attribute of its own; returns the rest."""
    packed = {}
    for name, value in headers.items():
        room = len(attributes) < limits.MAX_ATTRIBUTES - _OURS
        if room and name not in (ENVELOPE, TOPIC) and limits.is_attribute_name(name) and limits.travels_as_text(value):
            attributes[name] = _string(value)
        else:
            packed[name] = value
    return packed


def _text_of(body: bytes | None) -> tuple[str, Form]:
    if body is None:
        return _NOTHING, "none"
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if limits.travels_as_text(text):
        return text, "text"
    return base64.b64encode(body).decode() or _NOTHING, "base64"


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if limits.travels_as_text(text) else json.dumps(value, separators=(",", ":"))


def _string(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}


# --- in ---------------------------------------------------------------------------------------------------


def received_of(raw: Any, source: Source, expires: float, limit: float, server_now: float | None) -> Received:
    """server_now: seconds since 1970 by the server's clock, where it has told the time."""
    text, foreign = raw["Body"], raw.get("MessageAttributes", {})
    if ENVELOPE not in foreign and (wrapped := notifications.unwrapped(text)) is not None:
        text, foreign = wrapped
    attributes = {name: _value_of(value) for name, value in foreign.items()}
    envelope = envelope_of(attributes.pop(ENVELOPE, None))
    topic = attributes.pop(TOPIC, None)
    ours: dict[str, str] = envelope.get("a", {})
    headers: dict[str, str] = {**attributes, **envelope.get("h", {})}
    told = raw.get("Attributes", {})
    count = int(told.get("ApproximateReceiveCount", "1"))
    sent = int(told["SentTimestamp"]) / 1000 if "SentTimestamp" in told else None
    key, message_id = ours.pop("partitionkey", None), ours.pop("id", raw["MessageId"])
    if key is None and ENVELOPE not in foreign:
        key = told.get("MessageGroupId")
    delivery = Delivery(
        _body_of(text, envelope.get("form", "text")), ours, headers, key, message_id, topic or source.name,
        sent, count, count > 1, Handle(raw["ReceiptHandle"], expires, limit), raw,
    )  # fmt: skip
    # What SNS has wrapped was published, and nothing published is delayed, whatever its envelope says.
    delay = envelope.get("delay") if ENVELOPE in raw.get("MessageAttributes", {}) else None
    return Received(delivery, topic is None or bool(envelope.get("direct")), _left(delay, sent, server_now))


def envelope_of(text: str | None) -> dict[str, Any]:
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


def _left(delay: object, sent: float | None, server_now: float | None) -> float:
    """By the server's clock alone. It tells whole seconds, cut off, so that nothing is early."""
    if not isinstance(delay, int) or delay <= limits.MAX_DELAY:
        return 0.0
    passed = float(limits.MAX_DELAY)
    if sent is not None and server_now is not None:
        passed = max(passed, server_now - sent)
    return max(0.0, delay - passed)


def _value_of(attribute: Mapping[str, Any]) -> str:
    """Text of an attribute; what a foreign program sent as bytes is base64, as a header is text."""
    value = attribute.get("StringValue")
    if value is not None:
        return str(value)
    return base64.b64encode(attribute.get("BinaryValue", b"")).decode()


def _body_of(text: str, form: object) -> bytes | None:
    if form == "none":
        return None
    if form == "base64":
        try:
            return b"" if text == _NOTHING else base64.b64decode(text, validate=True)
        except binascii.Error:
            return text.encode()  # the envelope comes from outside, and so does its claim
    return text.encode()

"""How a message of unibus looks as an AMQP message, and what an AMQP message is to unibus.

Attributes travel as headers under their CloudEvents names (`cloudEvents:type`), and in the native
property too where there is one that means the same, so that a program without unibus finds both.
The native message id is fresh with every attempt to publish, since the broker's returns are told
apart by it; the logical id is `cloudEvents:id`.
"""

from __future__ import annotations

import json
import struct
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from unibus.driver import Outbound
from unibus_rabbitmq import fields

PREFIX = "cloudEvents:"
_OTHER_PREFIX = "cloudEvents_"
ID, KEY, TOPIC = PREFIX + "id", PREFIX + "partitionkey", PREFIX + "unibustopic"
NO_BODY = PREFIX + "unibusnobody"
"""A tombstone: AMQP knows no message without a body, only one with an empty body."""
_SPEC_VERSION = fields.header(PREFIX + "specversion", "1.0")

NATIVE = {
    "datacontenttype": fields.CONTENT_TYPE,
    "contentencoding": fields.CONTENT_ENCODING,
    "correlationid": fields.CORRELATION_ID,
    "replyto": fields.REPLY_TO,
    "type": fields.TYPE,
    "source": fields.APP_ID,
}
"""Attributes with a native property that means the same."""
_ONLY_NATIVE = {"datacontenttype", "contentencoding", "replyto"}

BROKER_MADE = frozenset({"x-death", "x-delivery-count", "x-acquired-count", "CC", "BCC"})
_BROKER_MADE_PREFIXES = ("x-first-death-", "x-last-death-", "x-opt-")


def is_broker_made(name: str) -> bool:
    """Whether the broker makes such headers or acts on them: they are neither handed out nor sent."""
    return name in BROKER_MADE or name.startswith(_BROKER_MADE_PREFIXES)


def write(message: Outbound, attempt_id: str, topic: str | None) -> bytes:
    """The properties of one attempt to publish. topic: told in a header, where the routing key does not tell it."""
    properties: dict[int, Any] = {fields.MESSAGE_ID: attempt_id}
    headers = [_SPEC_VERSION, fields.header(ID, message.message_id)]
    for name, value in message.attributes.items():
        flag = NATIVE.get(name)
        if flag is not None and fields.fits_short(value):
            properties[flag] = value
            if name in _ONLY_NATIVE:
                continue
        elif name == "time":
            properties[fields.TIMESTAMP] = _seconds(value)
        headers.append(fields.header(PREFIX + name, value))
    if message.priority is not None:
        properties[fields.PRIORITY] = min(max(message.priority, 0), 255)
    if message.key is not None:
        headers.append(fields.header(KEY, message.key))
    if topic is not None:
        headers.append(fields.header(TOPIC, topic))
    if message.body is None:
        headers.append(fields.header(NO_BODY, "1"))
    for name, value in message.headers.items():
        headers.append(fields.header(name, value))
    return fields.write(properties, headers)


@lru_cache(maxsize=64)
def _seconds(time: str) -> int | None:
    """An RFC 3339 time in seconds since 1970; many messages in a row share one."""
    try:
        return max(int(datetime.fromisoformat(time).timestamp()), 0)
    except (ValueError, OverflowError):
        return None


_NATIVE_NAMES = {flag: name for name, flag in NATIVE.items()}
_OWN_FIELDS = frozenset({"id", "partitionkey", "unibustopic", "unibusnobody", "specversion"})
"""Attributes that are no attributes of a delivery, but fields of it or nothing."""


@lru_cache(maxsize=4096)
def _attribute(name: str) -> str | None:
    """The attribute that a header carries, or None if it is no attribute of ours."""
    return name[len(PREFIX) :] if name.startswith((PREFIX, _OTHER_PREFIX)) else None


class Received:
    """What a message says about itself."""

    __slots__ = ("attributes", "count", "headers", "key", "message_id", "no_body", "sent_at", "topic")

    def __init__(self, data: bytes) -> None:
        self.attributes: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.key: str | None = None
        self.topic: str | None = None
        self.message_id = ""
        self.count = 0
        self.sent_at: float | None = None
        self.no_body = False
        try:
            properties, headers = fields.read(data)
        except (ValueError, IndexError, struct.error):
            properties, headers = {}, {}  # malformed by whoever sent it; the body is handed out all the same
        attributes = self.attributes
        for name, value in headers.items():
            if (ours := _attribute(name)) is None:
                self._take_header(name, value)
            elif ours in _OWN_FIELDS:
                self._take_attribute(ours, value if isinstance(value, str) else _text(value))
            else:
                attributes[ours] = value if isinstance(value, str) else _text(value)
        self._take_native(properties)

    def _take_header(self, name: str, value: Any) -> None:
        if name in ("x-delivery-count", "x-acquired-count"):
            # Newer brokers have both, and count there what they do not count here.
            if isinstance(value, int):
                self.count = max(self.count, value)
        elif not is_broker_made(name):
            self.headers[name] = value if isinstance(value, str) else _text(value)

    def _take_attribute(self, name: str, value: str) -> None:
        if name == "id":
            self.message_id = value
        elif name == "partitionkey":
            self.key = value
        elif name == "unibustopic":
            self.topic = value
        elif name == "unibusnobody":
            self.no_body = True

    def _take_native(self, properties: dict[int, Any]) -> None:
        attributes = self.attributes
        for flag, value in properties.items():
            name = _NATIVE_NAMES.get(flag)
            if name is not None and name not in attributes:
                attributes[name] = value
        seconds = properties.get(fields.TIMESTAMP)
        if seconds is not None:
            self.sent_at = float(seconds)
            if "time" not in self.attributes:
                self._take_time(seconds)
        if not self.message_id:  # of a program without unibus
            self.message_id = properties.get(fields.MESSAGE_ID) or uuid.uuid4().hex

    def _take_time(self, seconds: int) -> None:
        try:
            self.attributes["time"] = datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
        except (ValueError, OverflowError, OSError):
            self.sent_at = None  # no time that there is


def _text(value: Any) -> str:
    """A header of a program without unibus, as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return value.isoformat()
    if value is None:
        return ""
    return json.dumps(value, default=str) if isinstance(value, (dict, list)) else str(value)

"""A message of a channel: CloudEvents' structured JSON, since Redis publishes bytes and nothing beside them.

A body that is JSON stands in it as it is, as the last member; `unibushead` says how many bytes precede it, so that it
comes back byte for byte and is parsed by its handler alone.
"""

from __future__ import annotations

import base64
import json
import os
import uuid
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from itertools import count
from typing import Any

from unibus.driver import Delivery, Outbound
from unibus_redis import context

_HEAD = "unibushead"
_PUBLISH = "unibuspublish"
"""One publish: the message's own id may be used again by its sender."""
_HEADERS = "unibusheaders"
_PREFIX = os.urandom(8).hex()
_numbers = count()

_NO_ATTRIBUTES = frozenset({"specversion", "data_base64", "data", _HEAD, _PUBLISH})

_JSON = "application/json"
_BEGINNING, _DATA = b'{"unibushead":"', b',"data":'
_LENGTH = slice(len(_BEGINNING), len(_BEGINNING) + 6)
"""Where the length of the head stands, in six digits."""
_PUBLISH_ID = slice(len(_PUBLISH) + 5, -1)
"""Of `{"unibuspublish":"…"`."""


def encoded(message: Outbound) -> bytes:
    written = context.write(message, None)[1:-1]
    publish = f'"{_PUBLISH}":"{_PREFIX}-{next(_numbers)}"'
    headers = f',"{_HEADERS}":{json.dumps(dict(message.headers))}' if message.headers else ""
    body = message.body
    if body is None:
        return f"{{{publish},{written}{headers}}}".encode()
    if message.attributes.get("datacontenttype") == _JSON and body:
        rest = f"{publish},{written}{headers}".encode() + _DATA
        return b'%b%06d",%b%b}' % (_BEGINNING, _LENGTH.stop + 2 + len(rest), rest, body)
    data = base64.b64encode(body).decode()
    return f'{{{publish},{written}{headers},"data_base64":"{data}"}}'.encode()


def decoded(raw: bytes, topic: str) -> tuple[Delivery, str | None]:
    """The delivery, and the id of its publish. What is no event is a body without attributes."""
    head, body = _split(raw)
    if head and _HEADERS not in head:
        publish, _, rest = head.partition(",")
        known = context.read(f"{{{rest}")
        if known is not None and known[0]:
            message_id, key, _, attributes = known
            sent = _seconds(attributes.get("time", ""))
            delivery = Delivery(body, attributes, {}, key, message_id, topic, sent, None, False, None, raw)
            return delivery, publish[_PUBLISH_ID]
    event = _event(head or raw)
    if event is None:
        return Delivery(raw, {}, {}, None, uuid.uuid4().hex, topic, None, None, False, None, raw), None
    if not head:
        body = _body(event)
    texts = {name: value for name, value in event.items() if isinstance(value, str) and name not in _NO_ATTRIBUTES}
    key, message_id = texts.pop("partitionkey", None), texts.pop("id", "") or uuid.uuid4().hex
    sent, headers, publish_id = _seconds(texts.get("time", "")), _texts(event.get(_HEADERS)), event.get(_PUBLISH)
    delivery = Delivery(body, texts, headers, key, message_id, topic, sent, None, False, None, raw)
    return delivery, publish_id if isinstance(publish_id, str) else None


def _split(raw: bytes) -> tuple[str, bytes | None]:
    """The context of an event of ours as an object of its own, and the body behind it; "" for any other."""
    length = raw[_LENGTH]
    if raw.startswith(_BEGINNING) and length.isdigit():
        end = int(length)
        head = raw[_LENGTH.stop + 2 : end]
        if head.endswith(_DATA):
            return f"{{{head[: -len(_DATA)].decode(errors='replace')}}}", raw[end:-1]
    return "", None


def _body(event: dict[str, Any]) -> bytes | None:
    if "data_base64" in event:
        try:
            return base64.b64decode(str(event["data_base64"]))
        except ValueError:
            return str(event["data_base64"]).encode()
    return json.dumps(event["data"]).encode() if "data" in event else None


def _event(raw: str | bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "specversion" in event else None


def _texts(headers: object) -> Mapping[str, str]:
    if not isinstance(headers, dict):
        return {}
    return {name: value for name, value in headers.items() if isinstance(value, str)}


@lru_cache(maxsize=256)
def _seconds(time: str) -> float | None:
    try:
        return datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError):
        return None

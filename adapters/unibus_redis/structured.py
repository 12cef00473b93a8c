"""A message of a channel: CloudEvents' structured JSON, since Redis publishes bytes and nothing beside them."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

from unibus.driver import Delivery, Outbound

PUBLISH_ID = "unibuspublish"
"""One publish: the message's own id may be used again by its sender."""
_HEADERS = "unibusheaders"
_SENT = "unibussent"


def encoded(message: Outbound) -> str:
    event: dict[str, Any] = {"specversion": "1.0", "id": message.message_id, **message.attributes}
    event[PUBLISH_ID] = uuid.uuid4().hex
    event[_SENT] = f"{time.time():.3f}"
    if message.key is not None:
        event["partitionkey"] = message.key
    if message.headers:
        event[_HEADERS] = dict(message.headers)
    if message.body is not None:
        event["data_base64"] = base64.b64encode(message.body).decode()
    return json.dumps(event)


def decoded(raw: bytes, topic: str) -> tuple[Delivery, str | None]:
    """The delivery, and the id of its publish. What is no event of ours is a body without attributes."""
    event = _event(raw)
    if event is None:
        return Delivery(raw, {}, {}, None, uuid.uuid4().hex, topic, None, None, False, None, raw), None
    body: bytes | None = None
    if "data_base64" in event:
        body = base64.b64decode(str(event.pop("data_base64")))
    elif "data" in event:
        body = json.dumps(event.pop("data")).encode()
    headers = event.pop(_HEADERS, {})
    publish_id = event.pop(PUBLISH_ID, 0)
    sent = event.pop(_SENT, "")
    del event["specversion"]
    attributes = {name: value for name, value in event.items() if isinstance(value, str)}
    key, message_id = attributes.pop("partitionkey", None), attributes.pop("id", "") or uuid.uuid4().hex
    delivery = Delivery(
        body, attributes, _texts(headers), key, message_id, topic, _seconds(sent), None, False, None, raw
    )
    return delivery, publish_id if isinstance(publish_id, str) else None


def _event(raw: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(raw)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "specversion" in event else None


def _texts(headers: object) -> Mapping[str, str]:
    if not isinstance(headers, dict):
        return {}
    return {name: value for name, value in headers.items() if isinstance(value, str)}


def _seconds(text: object) -> float | None:
    try:
        return float(str(text))
    except ValueError:
        return None

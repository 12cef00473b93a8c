"""What SNS makes of a message on its way to a queue without raw delivery: JSON around it.

Our own subscriptions are raw. A queue that somebody else has subscribed may not be.
"""

from __future__ import annotations

import base64
import json
from typing import Any

_PARTS = ("Message", "MessageId", "TopicArn")


def unwrapped(text: str) -> tuple[str, dict[str, Any]] | None:
    """The message and its attributes as if they had come raw; None for what is no notification."""
    if not text.startswith("{") or '"Notification"' not in text:
        return None
    try:
        told = json.loads(text)
    except ValueError:
        return None
    if told.get("Type") != "Notification" or not all(isinstance(told.get(part), str) for part in _PARTS):
        return None
    if not told["TopicArn"].startswith("arn:"):
        return None
    attributes = told.get("MessageAttributes", {})
    if not isinstance(attributes, dict) or not all(map(_is_attribute, attributes.values())):
        return None
    return told["Message"], {name: _raw(attribute) for name, attribute in attributes.items()}


def _is_attribute(attribute: object) -> bool:
    return isinstance(attribute, dict) and isinstance(attribute.get("Value"), str)


def _raw(attribute: dict[str, str]) -> dict[str, Any]:
    if not attribute.get("Type", "").startswith("Binary"):
        return {"DataType": attribute.get("Type", "String"), "StringValue": attribute["Value"]}
    try:
        return {"DataType": "Binary", "BinaryValue": base64.b64decode(attribute["Value"], validate=True)}
    except ValueError:
        return {"DataType": "String", "StringValue": attribute["Value"]}

"""The context of a message, as CloudEvents has it: one JSON object, quick to write and to read where it repeats.

What is each message's own (`partitionkey`, `id`) stands first, all else after it: the rest is the same text for all
messages of one kind and one millisecond, and is written and parsed once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii as quoted
from typing import TypeAlias

from unibus.driver import Outbound

TOPIC = "unibustopic"
_SPEC = "specversion"
_KNOWN = 1024
"""Texts that are kept, of each kind."""

_ID = '{"id":"'
_FIRST = re.compile(r'\{(?:"partitionkey":"([^"\\]*)",)?"id":"([^"\\]+)",')

Context: TypeAlias = tuple[str, str | None, str | None, Mapping[str, str]]
"""message_id ("" for none), key, topic, attributes, which are shared by messages that are alike."""

_read: dict[str, tuple[str | None, Mapping[str, str]]] = {}


class _Written:
    """The rest of the message before: those that are sent in one moment share their attributes."""

    __slots__ = ("attributes", "rest", "topic")

    def __init__(self) -> None:
        self.attributes: Mapping[str, str] = {}
        self.topic: str | None = None
        self.rest = ""


_before = _Written()


class _Read:
    """What follows the id of the message before: those that come in one batch were mostly sent in one."""

    __slots__ = ("attributes", "length", "rest", "topic")

    def __init__(self) -> None:
        self.keep(f'"{_SPEC}":"1.0"}}', None, {})

    def keep(self, rest: str, topic: str | None, attributes: Mapping[str, str]) -> None:
        self.rest = f'",{rest}'
        self.length = len(self.rest)
        self.topic = topic
        self.attributes = attributes


_latest = _Read()


def write(message: Outbound, topic: str | None) -> str:
    """The object as text. topic: where the message was published, if that is to be told."""
    before = _before
    if message.attributes is not before.attributes or topic != before.topic:
        before.attributes, before.topic = message.attributes, topic
        before.rest = _rest(message.attributes, topic)
    if message.key is None:
        return f'{{"id":{quoted(message.message_id)},{before.rest}'
    return f'{{"partitionkey":{quoted(message.key)},"id":{quoted(message.message_id)},{before.rest}'


def read(text: str) -> Context | None:
    """What `write` has written, or anybody else's JSON object; None for what is no such thing."""
    latest = _latest
    if text.endswith(latest.rest) and text.startswith(_ID):
        message_id = text[len(_ID) : -latest.length]
        if message_id and '"' not in message_id and "\\" not in message_id:
            return message_id, None, latest.topic, latest.attributes
    first = _FIRST.match(text)
    if first is None:
        return _read_any(text)
    key, message_id = first.groups()
    rest = text[first.end() :]
    known = _read.get(rest)
    if known is None:
        parsed = _read_any(f"{{{rest}")
        if parsed is None or parsed[0] or parsed[1] is not None:
            return _read_any(text)  # with more than one id or key: the last one counts
        if len(_read) >= _KNOWN:
            _read.clear()
        known = _read[rest] = parsed[2:]
    if key is None:
        latest.keep(rest, *known)
    return message_id, key, *known


def _rest(attributes: Mapping[str, str], topic: str | None) -> str:
    """Up to the closing brace; never empty."""
    others = dict(attributes)
    if topic is not None:
        others[TOPIC] = topic
    others[_SPEC] = "1.0"
    return json.dumps(others, separators=(",", ":"))[1:]


def _read_any(text: str) -> Context | None:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    attributes = {name: value for name, value in fields.items() if isinstance(value, str)}
    attributes.pop(_SPEC, None)
    message_id, key = attributes.pop("id", ""), attributes.pop("partitionkey", None)
    return message_id, key, attributes.pop(TOPIC, None), attributes

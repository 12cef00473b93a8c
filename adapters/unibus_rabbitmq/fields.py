"""The properties of an AMQP message as bytes: what the envelope of every message is written to and read from.

Written by hand for the strings that our messages consist of, since this is done for each of them;
any other type of value is left to the client library's decoder.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from pamqp import decode

CONTENT_TYPE, CONTENT_ENCODING, HEADERS, DELIVERY_MODE = 1 << 15, 1 << 14, 1 << 13, 1 << 12
PRIORITY, CORRELATION_ID, REPLY_TO, EXPIRATION = 1 << 11, 1 << 10, 1 << 9, 1 << 8
MESSAGE_ID, TIMESTAMP, TYPE, USER_ID, APP_ID = 1 << 7, 1 << 6, 1 << 5, 1 << 4, 1 << 3

MAX_SHORT = 255
"""Bytes of a short string: names of headers, and properties but the headers."""

_flags_at = struct.Struct(">H").unpack_from
_size_at = struct.Struct(">I").unpack_from
_size = struct.Struct(">I").pack
_time_at = struct.Struct(">Q").unpack_from
_STRING = ord("S")


def write(properties: dict[int, Any], headers: Iterable[bytes]) -> bytes:
    """The property list of a persistent message. properties: by flag; strings of up to 255 bytes, or integers.

    headers: as `header` makes them.
    """
    table = b"".join(headers)
    flags = HEADERS | DELIVERY_MODE
    parts = [b""]
    if (content_type := properties.get(CONTENT_TYPE)) is not None:
        flags |= CONTENT_TYPE
        parts.append(_short(content_type))
    if (encoding := properties.get(CONTENT_ENCODING)) is not None:
        flags |= CONTENT_ENCODING
        parts.append(_short(encoding))
    parts += (_size(len(table)), table, b"\x02")
    for flag in (PRIORITY, CORRELATION_ID, REPLY_TO, MESSAGE_ID, TIMESTAMP, TYPE, APP_ID):
        value = properties.get(flag)
        if value is None:
            continue
        flags |= flag
        if flag == TIMESTAMP:
            parts.append(value.to_bytes(8, "big"))
        elif flag == PRIORITY:
            parts.append(value.to_bytes(1, "big"))
        else:
            parts.append(_short(value))
    parts[0] = flags.to_bytes(2, "big")
    return b"".join(parts)


def header(name: str, value: str) -> bytes:
    """One entry of the headers."""
    raw = value.encode()
    return _header_name(name) + _size(len(raw)) + raw


@lru_cache(maxsize=4096)
def _header_name(name: str) -> bytes:
    raw = name.encode()
    return bytes((len(raw),)) + raw + b"S"


def _short(value: str) -> bytes:
    raw = value.encode()
    return bytes((len(raw),)) + raw


def fits_short(value: str) -> bool:
    return len(value) <= MAX_SHORT and (value.isascii() or len(value.encode()) <= MAX_SHORT)


def read(data: bytes) -> tuple[dict[int, Any], dict[str, Any]]:
    """Properties by flag, and headers. Raises ValueError or IndexError for what is not well formed."""
    flags = _flags_at(data, 0)[0]
    at = 2
    properties: dict[int, Any] = {}
    headers: dict[str, Any] = {}
    for flag in _present(flags):
        if flag == HEADERS:
            at = _read_headers(data, at, headers)
        elif flag == TIMESTAMP:
            properties[flag] = _time_at(data, at)[0]
            at += 8
        elif flag in (DELIVERY_MODE, PRIORITY):
            properties[flag] = data[at]
            at += 1
        else:
            end = at + 1 + data[at]
            properties[flag] = data[at + 1 : end].decode("utf-8", "replace")
            at = end
    return properties, headers


@lru_cache(maxsize=256)
def _present(flags: int) -> tuple[int, ...]:
    """The flags that are set, in the order of their properties; nearly all messages have the same."""
    return tuple(flag for flag in (1 << bit for bit in range(15, 2, -1)) if flags & flag)


def _read_headers(data: bytes, at: int, headers: dict[str, Any]) -> int:
    end: int = at + 4 + _size_at(data, at)[0]
    at += 4
    while at < end:
        kind_at = at + 1 + data[at]
        name = _name(data[at + 1 : kind_at])
        if data[kind_at] == _STRING:
            start = kind_at + 5
            at = start + _size_at(data, kind_at + 1)[0]
            headers[name] = data[start:at].decode("utf-8", "replace")
        else:
            consumed, headers[name] = decode.embedded_value(data[kind_at:end])
            at = kind_at + consumed
    return end


@lru_cache(maxsize=4096)
def _name(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")

"""What travels around a payload: ids, time, source, the conversation that it belongs to, the user's headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from unibus import attributes as names
from unibus.codec import Encoder
from unibus.driver import Capabilities, Clock, Outbound
from unibus.errors import EncodeError, MessageTooLarge
from unibus.ids import Stamps
from unibus.message import Message, current_message

MAX_HEADERS = 64
MAX_HEADER_VALUE = 4096
_HEADER_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_RESERVED_HEADERS = ("unibus", "ce_", "ce-", "cloudevents")
_NO_HEADERS: Mapping[str, str] = {}


class Envelopes:
    """Makes messages ready to leave, for one open bus."""

    def __init__(self, source: str, clock: Clock) -> None:
        self._source = {names.SOURCE: source}
        self._max_body: int | None = None
        self._with_metadata = False
        self._alike: dict[int, _Alike] = {}
        self._alike_at = ""
        self.stamps = Stamps(clock)

    def limit(self, capabilities: Capabilities) -> None:
        """From now on refuse what is over the broker's limit."""
        self._max_body = capabilities.max_body
        self._with_metadata = capabilities.body_limit_counts_metadata

    def outbound(
        self,
        encoder: Encoder,
        data: Any,
        key: str | None,
        headers: Mapping[str, str] | None,
        message_id: str | None,
        correlation_id: str | None,
    ) -> Outbound:
        """Raises EncodeError and MessageTooLarge, before anything is queued."""
        body, described = encoder.encode(data)
        fresh_id = self.stamps.next_id()
        alike = self._alike_to(described)
        attributes: Mapping[str, str] = alike.attributes
        current = current_message.get()
        if current is not None or correlation_id is not None:
            attributes = _in_conversation(attributes, current, correlation_id)
        checked = _NO_HEADERS if not headers else checked_headers(headers)
        outbound = Outbound(body, attributes, checked, key, message_id or fresh_id)
        if self._max_body is not None:
            self._check_size(outbound, alike)
        return outbound

    def _alike_to(self, described: dict[str, str]) -> _Alike:
        """What messages of one description share within a millisecond: most of an envelope costs nothing."""
        time = self.stamps.time
        if time != self._alike_at:
            self._alike.clear()
            self._alike_at = time
        alike = self._alike.get(id(described))
        if alike is None:
            attributes = {**self._source, **described, names.TIME: time}
            alike = self._alike[id(described)] = _Alike(described, attributes)
        return alike

    def _check_size(self, outbound: Outbound, alike: _Alike) -> None:
        assert self._max_body is not None
        if outbound.attributes is alike.attributes and not outbound.headers:
            size = len(outbound.body or b"") + (alike.size if self._with_metadata else 0)
        else:
            size = size_of(outbound, with_metadata=self._with_metadata)
        if size > self._max_body:
            raise MessageTooLarge(size, self._max_body)


class _Alike:
    """described: kept alive, since it is found by its identity. size: of the attributes, as limits count them."""

    __slots__ = ("attributes", "described", "size")

    def __init__(self, described: dict[str, str], attributes: dict[str, str]) -> None:
        self.described = described
        self.attributes = attributes
        self.size = _size(attributes)


def _in_conversation(
    attributes: Mapping[str, str], current: Message[Any] | None, correlation_id: str | None
) -> dict[str, str]:
    """With what says where the message belongs: to the one being handled, or to what the caller names."""
    more = dict(attributes)
    if current is not None:
        more[names.CORRELATION_ID] = correlation_id or current.correlation_id
        more[names.CAUSATION_ID] = current.delivery.message_id
        if (trace := current.delivery.attributes.get(names.TRACE_PARENT)) is not None:
            more[names.TRACE_PARENT] = trace
    elif correlation_id is not None:
        more[names.CORRELATION_ID] = correlation_id
    return more


def size_of(outbound: Outbound, *, with_metadata: bool) -> int:
    """Bytes of a message, as the broker's limit counts them."""
    size = len(outbound.body or b"")
    if with_metadata:
        size += _size(outbound.attributes) + _size(outbound.headers)
    return size


def _size(texts: Mapping[str, str]) -> int:
    return sum(len(name.encode()) + len(value.encode()) for name, value in texts.items())


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """A copy of what every broker can carry. Raises EncodeError that names the header."""
    if len(headers) > MAX_HEADERS:
        raise EncodeError(f"{len(headers)} headers; at most {MAX_HEADERS} travel everywhere")
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise EncodeError(f"header name {name!r}: use up to 128 of A-Z a-z 0-9 . _ -")
        if name.lower().startswith(_RESERVED_HEADERS):
            raise EncodeError(f"header name {name!r} is kept for unibus and CloudEvents; choose another")
        if not isinstance(value, str):
            raise EncodeError(f"header {name!r} is a {type(value).__name__}; header values are str")
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:
            raise EncodeError(f"header {name!r} has a lone surrogate in it, which no encoding carries") from error
        if size > MAX_HEADER_VALUE:
            raise EncodeError(f"header {name!r} is {size} bytes long; {MAX_HEADER_VALUE} fit, put it into the payload")
        if "\r" in value or "\n" in value or "\0" in value:
            raise EncodeError(f"header {name!r} has a line break or NUL in it")
    return dict(headers)

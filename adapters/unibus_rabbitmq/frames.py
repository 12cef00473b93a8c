"""Reading AMQP 0-9-1 frames as they come from the socket, in the socket's own callback.

The client library takes several awaits for every frame and a task for every message. What comes in
numbers (deliveries, confirms, returned messages) is taken out of the stream here instead, for the
channels that ask for it; all else goes on to the library, which sees a connection with less on it.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable

METHOD, HEADER, BODY = 1, 2, 3
END = b"\xce"

_frame_head = struct.Struct(">BHI").unpack_from
_method_id = struct.Struct(">I").unpack_from
_delivery = struct.Struct(">QBB").unpack_from
_confirm = struct.Struct(">QB").unpack_from
_header = struct.Struct(">HHQ").unpack_from
_short = struct.Struct(">H").unpack_from

_DELIVER, _RETURN, _CANCEL = 60 << 16 | 60, 60 << 16 | 50, 60 << 16 | 30
_ACK, _NACK = 60 << 16 | 80, 60 << 16 | 120
_CHANNEL_CLOSE = 20 << 16 | 40
_CONNECTION_CLOSE, _BLOCKED, _UNBLOCKED = 10 << 16 | 50, 10 << 16 | 60, 10 << 16 | 61

_HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
CLOSE_OK = b"\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x33\xce"
_ALIVE_EVERY = 1.0
"""Seconds after which the library hears a heartbeat, if all that came was taken out of its sight."""


def short_text(data: bytes, at: int) -> tuple[str, int]:
    """An AMQP short string, and where it ends."""
    end = at + 1 + data[at]
    return data[at + 1 : end].decode("utf-8", "replace"), end


class Reading:
    """What comes on one channel. Subclasses say what to do with it; nothing here may raise or block."""

    def __init__(self) -> None:
        self._content: int = 0
        self._head: tuple[int, bool, str, str] = (0, False, "", "")
        self._properties = b""
        self._left = 0
        self._parts: list[bytes] = []

    def delivered(
        self, tag: int, redelivered: bool, exchange: str, routing_key: str, properties: bytes, body: bytes
    ) -> None:
        """A message for a consumer."""

    def returned(self, code: int, reason: str, properties: bytes) -> None:
        """A published message that could not be routed."""

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        """The broker's answer to a publish."""

    def cancelled(self) -> None:
        """The broker has ended our consumer."""

    def closed(self, code: int, reason: str) -> None:
        """The broker has closed the channel."""

    def frame(self, kind: int, data: bytes, start: int, stop: int) -> bool:
        """One frame's payload is data[start:stop]. Returns whether it was taken: the library must not see it."""
        if kind == METHOD:
            return self._method(_method_id(data, start)[0], data, start + 4)
        if not self._content:
            return False  # content of something that is the library's
        if kind == HEADER:
            self._left = _header(data, start)[2]
            self._properties = data[start + 12 : stop]
            if not self._left:
                self._complete(b"")
        elif kind == BODY:
            self._body(data[start:stop])
        return True

    def _method(self, method: int, data: bytes, at: int) -> bool:
        if method == _DELIVER:
            at += 1 + data[at]  # our own consumer tag
            tag, redelivered, size = _delivery(data, at)
            end = at + 10 + size
            key_end = end + 1 + data[end]
            exchange = data[at + 10 : end].decode("utf-8", "replace")
            self._head = (tag, redelivered == 1, exchange, data[end + 1 : key_end].decode("utf-8", "replace"))
            self._content = method
            return True
        if method in (_ACK, _NACK):
            tag, bits = _confirm(data, at)
            self.confirmed(tag, bits & 1 == 1, method == _ACK)
            return True
        if method == _RETURN:
            code, (reason, _) = _short(data, at)[0], short_text(data, at + 2)
            self._head = (code, False, reason, "")
            self._content = method
            return True
        if method == _CANCEL:
            self.cancelled()
        elif method == _CHANNEL_CLOSE:
            self.closed(_short(data, at)[0], short_text(data, at + 2)[0])
        return False

    def _body(self, part: bytes) -> None:
        self._left -= len(part)
        if self._left <= 0 and not self._parts:
            self._complete(part)
            return
        self._parts.append(part)
        if self._left <= 0:
            body = b"".join(self._parts)
            self._parts = []
            self._complete(body)

    def _complete(self, body: bytes) -> None:
        method, self._content = self._content, 0
        number, redelivered, text, routing_key = self._head
        if method == _DELIVER:
            self.delivered(number, redelivered, text, routing_key, self._properties, body)
        else:
            self.returned(number, text, self._properties)


class Control(Reading):
    """Channel 0: looks on, and leaves everything to the library but the end, which that would log as an error.

    on_close: called when the broker wants to end the connection; it waits for `CLOSE_OK`.
    """

    def __init__(self, on_blocked: Callable[[str | None], None], on_close: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._on_blocked = on_blocked
        self._on_close = on_close
        self.close: tuple[int, str] | None = None
        """Why the broker ended the connection: its code and its words."""

    def _method(self, method: int, data: bytes, at: int) -> bool:
        if method == _BLOCKED:
            self._on_blocked(short_text(data, at)[0])
        elif method == _UNBLOCKED:
            self._on_blocked(None)
        elif method == _CONNECTION_CLOSE:
            self.close = (_short(data, at)[0], short_text(data, at + 2)[0])
            self._on_close()
            return True
        return False


class FrameReader(asyncio.StreamReader):
    """The stream that the library reads, less what the `readings` of channels take out of it."""

    def __init__(self, control: Control, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.readings: dict[int, Reading] = {0: control}
        self.foreign = b""
        """The first bytes, if they were not AMQP: a server of another kind."""
        self.heard = loop.time()
        """When something came last."""
        self._forwarded = self.heard
        self._now = loop.time
        self._rest = b""
        self._begun = False

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]
        self.heard = self._now()
        if self._rest:
            data = self._rest + data
        if not self._begun and not self._begins_well(data):
            return
        at = plain = 0
        end = len(data)
        readings = self.readings
        while end - at >= 8:
            kind, channel, size = _frame_head(data, at)
            stop = at + 8 + size
            if stop > end:
                break
            reading = readings.get(channel)
            if reading is not None and reading.frame(kind, data, at + 7, stop - 1):
                if plain < at:
                    self._forward(data[plain:at])
                plain = stop
            at = stop
        if plain < at:
            self._forward(data[plain:at])
        elif self.heard - self._forwarded > _ALIVE_EVERY:
            self._forward(_HEARTBEAT)
        self._rest = data[at:]

    def end(self) -> None:
        """The connection is gone: the library hears of a proper close, which it does not log as an error."""
        if not self.at_eof():
            super().feed_data(CLOSE_OK)

    def _begins_well(self, data: bytes) -> bool:
        if data[:1] == b"\x01":
            self._begun = True
        elif not self.foreign:
            self.foreign = bytes(data[:32])
            self.set_exception(ConnectionError("what answers does not speak AMQP 0-9-1"))
        return self._begun

    def _forward(self, data: bytes) -> None:
        self._forwarded = self.heard
        super().feed_data(data)

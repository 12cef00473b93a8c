"""Publishing: a batch is one write, and each of its messages ends confirmed, refused, returned or unknown."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from aiormq.abc import AbstractChannel

from unibus.driver import Outbound
from unibus.errors import DestinationNotFound, MessageTooLarge, OutcomeUnknown, Rejected
from unibus_rabbitmq import envelope, fields
from unibus_rabbitmq.connection import Connection
from unibus_rabbitmq.frames import BODY, END, HEADER, METHOD, Reading

RESERVE = 16 * 1024
"""Bytes of the frame with the headers that a new message leaves free: for the record, should it be a dead letter."""
_HEADER_HEAD = 12

_frame_head = Struct(">BHI").pack
_publish_head = Struct(">HHH").pack
_content_head = Struct(">HHQ").pack


class Route(NamedTuple):
    """Where a message goes. topic: told in a header. name: of the destination, for errors."""

    exchange: str
    routing_key: str
    mandatory: bool
    topic: str | None
    name: str


class Batch:
    """The messages of one call. `done` is set when all are answered; `errors` are by index."""

    __slots__ = ("done", "errors", "left", "routes")

    def __init__(self, routes: Sequence[Route], done: asyncio.Future[None]) -> None:
        self.routes = routes
        self.done = done
        self.left = len(routes)
        self.errors: dict[int, Exception] = {}

    def settle(self, index: int, error: Exception | None) -> None:
        if error is not None:
            self.errors.setdefault(index, error)
        self.left -= 1
        if self.left == 0 and not self.done.done():
            self.done.set_result(None)


class PublishChannel(Reading):
    """A channel in confirm mode. on_end: called when nothing more can be published on it."""

    def __init__(self, connection: Connection, on_end: Callable[[PublishChannel], None]) -> None:
        super().__init__()
        self.alive = True
        self._channel: AbstractChannel
        self._connection = connection
        self._on_end = on_end
        self._stem = uuid.uuid4().hex
        self._tag = 0
        self._waiting: dict[int, tuple[Batch, int]] = {}

    async def open(self) -> None:
        self._channel = await self._connection.channel(self, confirms=True)

    async def close(self) -> None:
        await self._connection.close_channel(self._channel)

    def publish(self, messages: Sequence[Outbound], routes: Sequence[Route], done: asyncio.Future[None]) -> Batch:
        """Write them in one go."""
        batch = Batch(routes, done)
        number, most, waiting = self._channel.number, self._connection.max_frame, self._waiting
        parts: list[bytes] = []
        for index, (message, route) in enumerate(zip(messages, routes, strict=True)):
            tag = self._tag + 1
            # Told apart by it: the broker returns a message with its properties, not with its tag.
            properties = envelope.write(message, f"{self._stem}-{tag}", route.topic)
            error = _refusal(message, properties, most)
            if error is not None:
                batch.settle(index, error)
                continue
            self._tag = tag
            waiting[tag] = (batch, index)
            parts.append(_publish_frame(number, route.exchange, route.routing_key, route.mandatory))
            parts.append(_content_frames(number, properties, message.body or b"", most))
        self._connection.write(b"".join(parts))
        return batch

    def give_up(self, batch: Batch, reason: str) -> None:
        """What the broker has not answered stays unknown; should it answer later nobody hears of it."""
        for other, index in list(self._waiting.values()):
            if other is batch:
                batch.errors.setdefault(index, _unknown(reason))

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        error = None if stored else Rejected("the broker refused it: the queue is full, or could not store it")
        waiting = self._waiting
        tags = [tag]
        if multiple:
            tags = []
            for waits in waiting:  # in the order of their tags
                if waits > tag:
                    break
                tags.append(waits)
        for answered in tags:
            entry = waiting.pop(answered, None)
            if entry is not None:
                entry[0].settle(entry[1], error)

    def returned(self, code: int, reason: str, properties: bytes) -> None:
        """It could not be routed. An ack follows, which says no more than that it was dealt with."""
        known, _ = fields.read(properties)
        entry = self._waiting.get(int(known[fields.MESSAGE_ID].rpartition("-")[2]))
        if entry is not None:
            batch, index = entry
            batch.errors[index] = not_found(batch.routes[index].name)

    def closed(self, code: int, reason: str) -> None:
        self.end(f"the broker closed the channel: {code} {reason}")

    def end(self, reason: str) -> None:
        """The channel is gone."""
        if not self.alive:
            return
        self.alive = False
        waiting, self._waiting = self._waiting, {}
        for batch, index in waiting.values():
            batch.settle(index, _unknown(reason))
        self._on_end(self)


def not_found(name: str) -> DestinationNotFound:
    return DestinationNotFound(f"{name!r} does not exist; start its consumer first, or check the name")


def _unknown(reason: str) -> OutcomeUnknown:
    return OutcomeUnknown(f"the broker did not answer ({reason}): the message may be stored")


def _refusal(message: Outbound, properties: bytes, most: int) -> Exception | None:
    """Why the broker would close the channel, and all that is on it with it."""
    for name in message.headers:
        if envelope.is_broker_made(name):
            return Rejected(f"header {name!r} is one of the broker's own; choose another name")
    size, room = len(properties), most - _HEADER_HEAD  # AMQP has one frame for all headers
    if size <= room - RESERVE:
        return None
    if any(name.startswith("unibus") for name in message.attributes):  # re-sent by us: it may use the reserve
        return MessageTooLarge(size, room, "metadata") if size > room else None
    return MessageTooLarge(size, room - RESERVE, "metadata")


@lru_cache(maxsize=1024)
def _publish_frame(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    words = exchange.encode(), routing_key.encode()
    parts = [_publish_head(60, 40, 0), *(bytes((len(word),)) + word for word in words), bytes((mandatory,))]
    payload = b"".join(parts)
    return _frame_head(METHOD, channel, len(payload)) + payload + END


def _content_frames(channel: int, properties: bytes, body: bytes, most: int) -> bytes:
    size = len(body)
    parts = [_frame_head(HEADER, channel, _HEADER_HEAD + len(properties)), _content_head(60, 0, size), properties, END]
    for start in range(0, size, most):
        part = body if size <= most else body[start : start + most]
        parts += (_frame_head(BODY, channel, len(part)), part, END)
    return b"".join(parts)

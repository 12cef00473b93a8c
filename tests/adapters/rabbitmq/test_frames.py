"""Frames are taken out of the stream whole and in order, however the stream is cut: without a server."""

from __future__ import annotations

import asyncio
import random

import pytest
from aiormq import spec
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from unibus_rabbitmq import envelope
from unibus_rabbitmq.frames import Control, FrameReader, Reading


class Noting(Reading):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[object, ...]] = []

    def delivered(
        self, tag: int, redelivered: bool, exchange: str, routing_key: str, properties: bytes, body: bytes
    ) -> None:
        headers = envelope.Received(properties).headers
        self.seen.append(("delivered", tag, redelivered, exchange, routing_key, headers, body))

    def returned(self, code: int, reason: str, properties: bytes) -> None:
        self.seen.append(("returned", code, reason, envelope.Received(properties).message_id))

    def confirmed(self, tag: int, multiple: bool, stored: bool) -> None:
        self.seen.append(("confirmed", tag, multiple, stored))

    def cancelled(self) -> None:
        self.seen.append(("cancelled",))

    def closed(self, code: int, reason: str) -> None:
        self.seen.append(("closed", code, reason))


def content(channel: int, method: frame.FrameTypes, properties: spec.Basic.Properties, *parts: bytes) -> bytes:
    size = sum(map(len, parts))
    frames = [method, ContentHeader(body_size=size, properties=properties), *map(ContentBody, parts)]
    return b"".join(frame.marshal(one, channel) for one in frames)


OPEN_OK = frame.marshal(spec.Channel.OpenOk(), 2)
CANCEL = frame.marshal(spec.Basic.Cancel(consumer_tag="t"), 2)
CLOSE = frame.marshal(spec.Channel.Close(reply_code=406, reply_text="no", class_id=0, method_id=0), 2)
HEARTBEAT = frame.marshal(Heartbeat(), 0)
OF_ANOTHER = content(7, spec.Basic.Deliver("t", 1, False, "", "q"), spec.Basic.Properties(), b"for the library")
STREAM = b"".join(
    (
        OPEN_OK,
        content(2, spec.Basic.Deliver("t", 1, False, "", "q"), spec.Basic.Properties(headers={"a": "ü"}), b"whole"),
        content(2, spec.Basic.Deliver("t", 2, True, "x", "a.b"), spec.Basic.Properties(), b"in", b"three", b"parts"),
        HEARTBEAT,
        OF_ANOTHER,
        content(2, spec.Basic.Deliver("t", 2**40, False, "", "q"), spec.Basic.Properties()),
        frame.marshal(spec.Basic.Ack(3, True), 2),
        frame.marshal(spec.Basic.Nack(4, False), 2),
        content(2, spec.Basic.Return(312, "NO_ROUTE", "", "q"), spec.Basic.Properties(message_id="m"), b"body"),
        CANCEL,
        CLOSE,
    )
)
SEEN = [
    ("delivered", 1, False, "", "q", {"a": "ü"}, b"whole"),
    ("delivered", 2, True, "x", "a.b", {}, b"inthreeparts"),
    ("delivered", 2**40, False, "", "q", {}, b""),
    ("confirmed", 3, True, True),
    ("confirmed", 4, False, False),
    ("returned", 312, "NO_ROUTE", "m"),
    ("cancelled",),
    ("closed", 406, "no"),
]
PASSED = OPEN_OK + HEARTBEAT + OF_ANOTHER + CANCEL + CLOSE


def read(*chunks: bytes) -> tuple[list[tuple[object, ...]], bytes]:
    """What was taken out of the stream, and what was left for the library."""
    reader, noting = FrameReader(Control(lambda _: None), asyncio.get_running_loop()), Noting()
    reader.readings[2] = noting
    for chunk in chunks:
        reader.feed_data(chunk)
    return noting.seen, bytes(reader._buffer)  # type: ignore[attr-defined]


async def test_cut_at_any_place_it_is_read_the_same() -> None:
    for place in range(len(STREAM) + 1):
        assert read(STREAM[:place], STREAM[place:]) == (SEEN, PASSED)


async def test_cut_in_many_places_it_is_read_the_same() -> None:
    chance = random.Random(3)
    for _ in range(200):
        places = sorted(chance.sample(range(len(STREAM)), 20))
        assert read(*[STREAM[a:b] for a, b in zip([0, *places], [*places, None], strict=True)]) == (SEEN, PASSED)


async def test_the_library_hears_that_the_server_lives_though_all_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unibus_rabbitmq.frames._ALIVE_EVERY", -1.0)
    delivery = content(2, spec.Basic.Deliver("t", 1, False, "", "q"), spec.Basic.Properties(), b"x")
    seen, passed = read(delivery)
    assert len(seen) == 1
    assert passed == HEARTBEAT


async def test_another_protocol_is_noticed_at_its_first_bytes() -> None:
    reader = FrameReader(Control(lambda _: None), asyncio.get_running_loop())
    reader.feed_data(b"HTTP/1.1 400 Bad Request")
    assert reader.foreign.startswith(b"HTTP/1.1")
    with pytest.raises(ConnectionError):
        await reader.readexactly(1)


async def test_control_sees_blocks_and_the_end() -> None:
    told = list[str | None]()
    control = Control(told.append)
    reader = FrameReader(control, asyncio.get_running_loop())
    frames = [
        spec.Connection.Blocked("low on memory"),
        spec.Connection.Unblocked(),
        spec.Connection.Close(530, "no", 0, 0),
    ]
    for one in frames:
        reader.feed_data(frame.marshal(one, 0))
    assert told == ["low on memory", None]
    assert control.close == (530, "no")

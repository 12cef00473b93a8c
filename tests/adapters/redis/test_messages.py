"""How messages are spelled on streams and on channels."""

from __future__ import annotations

import json

import pytest

from unibus.driver import Outbound
from unibus_redis.entries import Entry, delivery_of, fields_of
from unibus_redis.listener import channels_of
from unibus_redis.structured import decoded, encoded

MESSAGE = Outbound(b"\x00\xff", {"type": "t", "source": "s"}, {"data": "1", "ce": "2"}, "k", "id-1")


def as_entry(fields: list[str | bytes], count: int = 1) -> Entry:
    return Entry("1700000000000-3", [one.encode() if isinstance(one, str) else one for one in fields], count, 0.0)


def test_an_entry_carries_all_of_a_message() -> None:
    delivery = delivery_of(as_entry(fields_of(MESSAGE, "a.b")), "queue")
    assert (delivery.body, delivery.attributes, delivery.headers) == (MESSAGE.body, MESSAGE.attributes, MESSAGE.headers)
    assert (delivery.key, delivery.message_id, delivery.address) == ("k", "id-1", "a.b")
    assert (delivery.sent_at, delivery.deliveries, delivery.redelivered) == (1_700_000_000.0, 1, False)


def test_an_entry_that_was_given_back_keeps_its_count_and_its_time() -> None:
    delivery = delivery_of(as_entry([*fields_of(MESSAGE, None), "returned", "2", "sent", "1600000000000"]), "queue")
    assert (delivery.deliveries, delivery.redelivered, delivery.sent_at) == (3, True, 1_600_000_000.0)


def test_an_entry_of_a_foreign_producer_is_a_plain_message() -> None:
    delivery = delivery_of(as_entry(["data", b"{}", "tenant", "7", "returned", "x"]), "queue")
    assert (delivery.body, delivery.headers, delivery.message_id) == (b"{}", {"tenant": "7"}, "1700000000000-3")
    assert delivery.deliveries == 1


@pytest.mark.parametrize("body", [b"", b"\x00\xff", b"{}", None])
def test_a_channel_carries_all_of_a_message(body: bytes | None) -> None:
    message = Outbound(body, {"type": "t"}, {"h": "Grüße"}, "k", "id-1")
    delivery, publish_id = decoded(encoded(message).encode(), "a.b")
    assert publish_id
    assert (delivery.body, delivery.attributes, delivery.headers) == (body, {"type": "t"}, {"h": "Grüße"})
    assert (delivery.key, delivery.message_id, delivery.address) == ("k", "id-1", "a.b")


def test_what_a_foreign_publisher_says_is_the_body_unless_it_is_an_event() -> None:
    assert decoded(b"plain", "t")[0].body == b"plain"
    assert decoded(b'{"a": 1}', "t")[0].body == b'{"a": 1}'
    event = json.dumps({"specversion": "1.0", "id": "1", "type": "x", "data": {"a": 1}}).encode()
    delivery, publish_id = decoded(event, "t")
    assert (delivery.body, delivery.message_id, delivery.attributes) == (b'{"a": 1}', "1", {"type": "x"})
    assert publish_id is None


@pytest.mark.parametrize(
    ("pattern", "channels"),
    [("a.b", "a.b"), ("a.*", "a.*"), ("a.#", "a*"), ("#.b", "*b"), ("a.#.b", "a*.b"), ("#", "*")],
)
def test_a_glob_covers_its_pattern(pattern: str, channels: str) -> None:
    assert channels_of(pattern) == channels

"""How messages and patterns are spelled on Kafka."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from aiokafka.partitioner import DefaultPartitioner, murmur2
from hypothesis import given
from hypothesis import strategies as st

from unibus.driver import Delivery, Outbound, TopicSubscription, matches
from unibus_kafka.partitioner import hashed, partition_of
from unibus_kafka.patterns import topics_of
from unibus_kafka.records import Place, delivery_of, record_of, was_sent_to_queue

TOPICS = ["a", "a.b", "a.b.c", "b", "x.b", "unibus.group.g", "unibus.group.other", "a.dlq", "ab"]


def read(address: str | None = "orders", **record: object) -> Delivery:
    facts = {"topic": "orders", "partition": 1, "offset": 7, "timestamp": 1_700_000_000_000, "key": None, "headers": ()}
    return delivery_of(SimpleNamespace(**(facts | record)), Place(None, 7), address, count=1, again=False)


def test_a_record_carries_all_of_a_message() -> None:
    attributes = {"type": "t", "datacontenttype": "application/json", "unibusattempt": "2"}
    headers = {"content-type": "x", "h": "Grüße", "ce_id": "not ours", "unibus_topic": "neither"}
    made = record_of(Outbound(b"1", dict(attributes), headers, "k", "id-1"), "a.b")
    assert made.key == b"k"
    assert ("content-type", b"application/json") in made.headers
    assert ("ce_specversion", b"1.0") in made.headers
    delivery = read(value=made.value, key=made.key, headers=made.headers)
    assert (delivery.body, delivery.attributes, delivery.headers) == (b"1", attributes, headers)
    assert (delivery.key, delivery.message_id, delivery.address) == ("k", "id-1", "a.b")
    assert (delivery.sent_at, delivery.deliveries) == (1_700_000_000.0, 1)


def test_a_record_of_a_plain_program_is_a_message() -> None:
    delivery = read(value=b"raw", key=b"k", headers=(("trace", b"1"), ("odd", b"\xff"), ("none", None)))
    assert (delivery.body, delivery.key, delivery.message_id) == (b"raw", "k", "orders-1-7")
    assert delivery.headers == {"trace": "1", "odd": "\udcff", "none": ""}
    assert (delivery.attributes, delivery.address) == ({}, "orders")
    again = record_of(Outbound(b"raw", {}, delivery.headers, delivery.key, delivery.message_id), None)
    assert ("odd", b"\xff") in again.headers, "bytes that are no text come out as they went in"


def test_what_is_sent_to_a_queue_says_so_and_a_user_cannot() -> None:
    assert was_sent_to_queue(record_of(Outbound(b"1", {}, {}, None, "1"), None, to_queue=True).headers)
    assert not was_sent_to_queue(record_of(Outbound(b"1", {}, {"unibus_queue": "1"}, None, "1"), None).headers)


def test_a_tombstone_has_no_body() -> None:
    made = record_of(Outbound(None, {}, {}, "k", "1"), None)
    assert made.value is None
    assert read(value=None, key=b"k", headers=made.headers).body is None


@pytest.mark.parametrize(
    ("data", "body"),
    [
        ({"data": {"a": 1}}, b'{"a":1}'),
        ({"data": "text", "datacontenttype": "text/plain"}, b"text"),
        ({"data": "text"}, b'"text"'),
        ({"data_base64": "AAE="}, b"\x00\x01"),
        ({}, None),
    ],
)
def test_the_structured_mode_is_read(data: dict[str, str], body: bytes | None) -> None:
    event = {"specversion": "1.0", "id": "7", "type": "t", "source": "s", "extra": 5} | data
    kind = (("content-type", b"application/cloudevents+json; charset=UTF-8"),)
    delivery = read(value=json.dumps(event).encode(), headers=kind)
    assert (delivery.body, delivery.message_id) == (body, "7")
    assert {"type": "t", "source": "s", "extra": "5"}.items() <= delivery.attributes.items()


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"data": 1}', b'{"specversion": "1.0", "data_base64": "?"}', None]
)
def test_what_only_says_that_it_is_structured_stays_as_it_is(body: bytes | None) -> None:
    assert read(value=body, headers=(("content-type", b"application/cloudevents+json"),)).body == body


@given(st.binary(max_size=60))
def test_a_key_goes_where_other_clients_send_it(key: bytes) -> None:
    assert hashed(key) == murmur2(key) & 0x7FFFFFFF
    assert partition_of(key, 12) == DefaultPartitioner()(key, list(range(12)), list(range(12)))


@pytest.mark.parametrize("pattern", ["a", "a.*", "a.#", "*.b", "#", "#.b", "a.#.c", "*"])
def test_an_expression_matches_what_its_pattern_does(pattern: str) -> None:
    expression = re.compile(topics_of(TopicSubscription((pattern,), "g")))
    expected = [topic for topic in TOPICS if matches(pattern, topic) or topic == "unibus.group.g"]
    assert [topic for topic in TOPICS if expression.match(topic)] == expected

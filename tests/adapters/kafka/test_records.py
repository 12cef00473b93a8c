"""How messages and patterns are spelled on Kafka, and how far a partition is done."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from unibus.driver import Delivery, Outbound, TopicSubscription, matches
from unibus_kafka.driver import topics_of
from unibus_kafka.partition import Partition
from unibus_kafka.records import delivery_of, record_of

TOPICS = ["a", "a.b", "a.b.c", "b", "x.b", "unibus.group.g", "unibus.group.other", "a.dlq", "ab"]


def test_a_record_carries_all_of_a_message() -> None:
    attributes = {"type": "t", "datacontenttype": "application/json"}
    message = Outbound(b"1", attributes, {"content-type": "x", "h": "Grüße"}, "k", "id-1")
    made = record_of(message, "a.b")
    assert made["key"] == b"k"
    assert ("content-type", b"application/json") in made["headers"]
    record = SimpleNamespace(**made, topic="orders", partition=1, offset=7, timestamp=1_700_000_000_000)
    delivery = delivery_of(record, None, "orders", "orders", again=False)
    assert (delivery.body, delivery.attributes, delivery.headers) == (b"1", attributes, message.headers)
    assert (delivery.key, delivery.message_id, delivery.address) == ("k", "id-1", "a.b")
    assert (delivery.sent_at, delivery.deliveries) == (1_700_000_000.0, None)


@pytest.mark.parametrize("pattern", ["a", "a.*", "a.#", "*.b", "#", "#.b", "a.#.c", "*"])
def test_an_expression_matches_what_its_pattern_does(pattern: str) -> None:
    expression = re.compile(topics_of(TopicSubscription((pattern,), "g")))
    expected = [topic for topic in TOPICS if matches(pattern, topic) or topic == "unibus.group.g"]
    assert [topic for topic in TOPICS if expression.match(topic)] == expected


def test_the_watermark_stays_at_the_first_hole_and_never_goes_back() -> None:
    partition = Partition("tp")
    for offset in range(5, 10):
        partition.came(offset, Delivery(b"", {}, {}, None, str(offset), "q", None, None, False, None))
    assert partition.to_commit == 5
    partition.committed(5)
    for offset in (6, 7, 9):
        partition.settled(offset)
    assert partition.to_commit is None, "5 is not done"
    partition.settled(5)
    assert partition.to_commit == 8
    partition.committed(8)
    partition.committed(6)
    partition.settled(8)
    assert partition.to_commit == 10

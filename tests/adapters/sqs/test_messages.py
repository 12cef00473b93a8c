"""How messages, names and filters are spelled on SQS and SNS."""

from __future__ import annotations

from typing import Any

import pytest

from unibus.driver import Outbound, Queue, TopicSubscription
from unibus_sqs import names
from unibus_sqs.wire import delivery_of, entry_of

QUEUE = Queue("orders")


def received(entry: Any) -> Any:
    return {
        "MessageId": "m",
        "ReceiptHandle": "r",
        "Body": entry["MessageBody"],
        "MessageAttributes": entry["MessageAttributes"],
        "Attributes": {"ApproximateReceiveCount": "2", "SentTimestamp": "1700000000000"},
    }


@pytest.mark.parametrize("body", [b"", b"\x00", b"\xff\xfe", b"a\r\nb", b"-", "Grüße 🚌".encode(), None])
def test_any_body_comes_back_as_it_was(body: bytes | None) -> None:
    message = Outbound(body, {"type": "t"}, {"h": "🚌\t"}, "Schlüssel", "id-1")
    entry = entry_of(message, 0, "a.b", body="MessageBody", ordered=False, direct=False)
    delivery, direct = delivery_of(received(entry), QUEUE, 0.0, 0.0)
    assert entry["MessageBody"]
    assert not direct
    assert (delivery.body, delivery.attributes, delivery.headers) == (body, {"type": "t"}, {"h": "🚌\t"})
    assert (delivery.key, delivery.message_id, delivery.address) == ("Schlüssel", "id-1", "a.b")
    assert (delivery.deliveries, delivery.redelivered, delivery.sent_at) == (2, True, 1_700_000_000.0)


def test_a_message_of_a_foreign_producer_is_plain() -> None:
    raw: Any = {"MessageId": "m", "ReceiptHandle": "r", "Body": "{}"}
    raw |= {"MessageAttributes": {"tenant": {"DataType": "String", "StringValue": "7"}, "unibus": {"StringValue": "["}}}
    delivery, direct = delivery_of(raw, QUEUE, 0.0, 0.0)
    assert direct
    assert (delivery.body, delivery.headers, delivery.message_id) == (b"{}", {"tenant": "7"}, "m")


def test_a_message_sent_twice_has_two_deduplication_ids_and_one_group() -> None:
    message = Outbound(b"1", {}, {}, "k", "id-1")
    one, two = (entry_of(message, 0, None, body="MessageBody", ordered=True, direct=False) for _ in range(2))
    assert one["MessageDeduplicationId"] != two["MessageDeduplicationId"]
    assert one["MessageGroupId"] == two["MessageGroupId"]


def test_names_have_no_dots_but_for_fifo() -> None:
    assert names.queue_name(Queue("orders.new")) == "orders--new"
    assert names.queue_name(Queue("orders", ordering="key")) == "orders.fifo"
    assert names.other_name(Queue("orders", ordering="key")) == "orders"
    assert names.queue_name(TopicSubscription(("a",), "mail")) == "unibus--group--mail"
    assert names.queue_name(Queue("orders", physical="Legacy_Q")) == "Legacy_Q"


@pytest.mark.parametrize(
    ("pattern", "rules"),
    [
        ("a.b", ["a.b"]),
        ("a.*", [{"prefix": "a."}]),
        ("a.#", [{"prefix": "a."}, "a"]),
        ("a.*.b", [{"prefix": "a."}]),
        ("#.b", [{"exists": True}]),
    ],
)
def test_the_broker_s_filter_lets_pass_what_may_match(pattern: str, rules: list[object]) -> None:
    assert names.filter_of([pattern]) == rules

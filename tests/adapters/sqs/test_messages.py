"""How messages, names and filters are spelled on SQS and SNS."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from unibus.driver import Outbound, Queue, SystemClock, TopicSubscription, Url
from unibus.errors import ConfigurationError
from unibus_sqs import names
from unibus_sqs.driver import SqsDriver
from unibus_sqs.groups import policy_with
from unibus_sqs.limits import MAX_ATTRIBUTES
from unibus_sqs.options import place
from unibus_sqs.wire import deduplication_id, entry_of, group_id, received_of, sent_on, size_of

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
    one = received_of(received(entry), QUEUE, 0.0, 0.0, None)
    delivery, direct = one.delivery, one.direct
    assert entry["MessageBody"]
    assert not direct
    assert (delivery.body, delivery.attributes, delivery.headers) == (body, {"type": "t"}, {"h": "🚌\t"})
    assert (delivery.key, delivery.message_id, delivery.address) == ("Schlüssel", "id-1", "a.b")
    assert (delivery.deliveries, delivery.redelivered, delivery.sent_at) == (2, True, 1_700_000_000.0)


def test_a_message_of_a_foreign_producer_is_plain() -> None:
    raw: Any = {"MessageId": "m", "ReceiptHandle": "r", "Body": "{}"}
    raw |= {"MessageAttributes": {"tenant": {"DataType": "String", "StringValue": "7"}, "unibus": {"StringValue": "["}}}
    one = received_of(raw, QUEUE, 0.0, 0.0, None)
    delivery, direct = one.delivery, one.direct
    assert direct
    assert (delivery.body, delivery.headers, delivery.message_id) == (b"{}", {"tenant": "7"}, "m")


def test_a_repeated_send_is_a_duplicate_for_fifo_and_its_next_attempt_is_none() -> None:
    def entry(**attributes: str) -> Any:
        message = Outbound(b"1", attributes, {}, "k", "id-1")
        return entry_of(message, 0, None, body="MessageBody", ordered=True, direct=False)

    first, repeated, retried = entry(), entry(), entry(unibusattempt="2")
    assert first["MessageDeduplicationId"] == repeated["MessageDeduplicationId"]
    assert first["MessageDeduplicationId"] != retried["MessageDeduplicationId"]
    assert len({one["MessageGroupId"] for one in (first, repeated, retried)}) == 1


def test_a_message_without_a_key_is_a_group_of_its_own() -> None:
    groups = [
        group_id(Outbound(b"1", {}, {}, key, id_)) for key, id_ in [(None, "a"), (None, "a"), (None, "b"), ("a", "a")]
    ]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3


def test_what_differs_in_anything_is_no_duplicate_for_fifo() -> None:
    """Within five minutes SQS would confirm it and throw it away."""
    published = Outbound(b"1", {"type": "t"}, {"h": "v"}, "k", "id-1", topic="a.b")
    others = [
        Outbound(b"2", {"type": "t"}, {"h": "v"}, "k", "id-1", topic="a.b"),
        Outbound(b"", {"type": "t"}, {"h": "v"}, "k", "id-1", topic="a.b"),
        Outbound(None, {"type": "t"}, {"h": "v"}, "k", "id-1", topic="a.b"),
        Outbound(b"1", {"type": "t", "unibusreplays": "1"}, {"h": "v"}, "k", "id-1", topic="a.b"),
        Outbound(b"1", {"type": "t"}, {"h": "w"}, "k", "id-1", topic="a.b"),
        Outbound(b"1", {"type": "t"}, {"h": "v"}, "l", "id-1", topic="a.b"),
        Outbound(b"1", {"type": "t"}, {"h": "v"}, "k", "id-1", topic="a.c"),
        Outbound(b"1", {"type": "t"}, {"h": "v"}, "k", "id-2", topic="a.b"),
    ]
    found = [deduplication_id(message, direct=False) for message in (published, *others)]
    found.append(deduplication_id(published, direct=True))  # to one group alone, which has had it from the topic
    assert len(set(found)) == len(found)


def test_no_message_has_an_eleventh_attribute() -> None:
    headers = {f"h{number}": "v" for number in range(20)}
    entry = entry_of(Outbound(b"1", {}, headers, None, "m"), 0, "t", body="MessageBody", ordered=False, direct=False)
    assert len(entry["MessageAttributes"]) == MAX_ATTRIBUTES
    assert received_of(received(entry), QUEUE, 0.0, 0.0, None).delivery.headers == headers


@pytest.mark.parametrize("header", [{"AWS.x": "1"}, {"a..b": "1"}, {"empty": ""}, {"control": "\x00"}, {"unibus": "1"}])
def test_a_header_that_sqs_would_refuse_travels_all_the_same(header: dict[str, str]) -> None:
    entry = entry_of(Outbound(b"1", {}, header, None, "m"), 0, None, body="MessageBody", ordered=False, direct=False)
    assert set(entry["MessageAttributes"]) == {"unibus"}
    assert received_of(received(entry), QUEUE, 0.0, 0.0, None).delivery.headers == header


def test_a_size_counts_names_types_and_values_in_bytes() -> None:
    entry = {"MessageBody": "ü", "MessageAttributes": {"a": {"DataType": "String", "StringValue": "ü"}}}
    assert size_of(entry, "MessageBody") == 2 + 1 + 6 + 2


@pytest.mark.parametrize(("passed", "left"), [(900, 2700), (1000, 2600), (3599, 1), (3600, 0), (9000, 0), (0, 2700)])
def test_a_delay_of_an_hour_goes_in_stretches_and_is_never_early(passed: int, left: int) -> None:
    message = Outbound(b"1", {}, {"h": "v"}, None, "m", 3600.0)
    entry = entry_of(message, 0, None, body="MessageBody", ordered=False, direct=False)
    assert entry["DelaySeconds"] == 900
    one = received_of(received(entry), QUEUE, 0.0, 0.0, 1_700_000_000 + passed)
    assert one.left == left
    again = sent_on(received(entry), 0, 2700)
    assert again["DelaySeconds"] == 900
    assert received_of(received(again), QUEUE, 0.0, 0.0, 1_700_000_900).left == 1800
    last = sent_on(received(again), 0, 800.5)
    assert last["DelaySeconds"] == 801
    arrived = received_of(received(last), QUEUE, 0.0, 0.0, 1_700_000_000)
    assert (arrived.left, arrived.delivery.headers, arrived.delivery.message_id) == (0, {"h": "v"}, "m")


def test_a_notification_that_is_not_raw_is_unwrapped() -> None:
    told: dict[str, Any] = {"Type": "Notification", "MessageId": "n", "TopicArn": "arn:aws:sns:r:1:t", "Message": "{}"}
    told |= {"MessageAttributes": {"tenant": {"Type": "String", "Value": "7"}}}
    raw: Any = {"MessageId": "m", "ReceiptHandle": "r", "Body": json.dumps(told)}
    delivery = received_of(raw, QUEUE, 0.0, 0.0, None).delivery
    assert (delivery.body, delivery.headers) == (b"{}", {"tenant": "7"})


def test_what_was_published_is_never_late_whatever_its_envelope_says() -> None:
    told: dict[str, Any] = {"Type": "Notification", "MessageId": "n", "TopicArn": "arn:aws:sns:r:1:t", "Message": "{}"}
    told |= {"MessageAttributes": {"unibus": {"Type": "String", "Value": '{"a":{},"delay":5000}'}}}
    raw: Any = {"MessageId": "m", "ReceiptHandle": "r", "Body": json.dumps(told)}
    assert received_of(raw, QUEUE, 0.0, 0.0, None).left == 0


@pytest.mark.parametrize(
    "url", ["sqs://AKIAX:hidden@eu-west-1", "sqs://eu-west-1?aws_secret_access_key=hidden", "sqs://", "sqs://nowhere"]
)
def test_a_url_names_a_region_and_no_credentials(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        SqsDriver(Url(url), SystemClock())
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("physical", ["a b", "x" * 81, "orders.fifo", "a.b"])
def test_a_physical_name_outside_the_grammar_or_of_the_other_order_is_refused(physical: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(repr(physical))):
        names.queue_name(Queue("orders", physical=physical))


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


def test_one_set_of_patterns_has_one_filter_whatever_their_order() -> None:
    """SNS refuses to subscribe a queue anew with another one."""
    patterns = ["b.*", "a", "c.#"]
    assert names.filter_of(patterns) == names.filter_of(patterns[::-1])
    assert names.as_tag(patterns) == names.as_tag(patterns[::-1])


def test_a_filter_says_what_an_ordered_group_wants() -> None:
    patterns = ("a.*.b", "#.late")
    rules = [*names.filter_of(patterns), names.as_rule(patterns)]
    assert names.patterns_of(rules) == tuple(sorted(patterns))
    assert names.patterns_of(names.filter_of(patterns)) == ()


def test_the_policy_of_a_queue_keeps_what_others_have_written() -> None:
    arn = "arn:aws:sqs:eu-west-1:1:unibus--group--mail"
    theirs = {"Sid": "theirs", "Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Resource": arn}
    made = policy_with(json.dumps({"Version": "2012-10-17", "Statement": theirs}), arn)
    assert made is not None
    kept, ours = json.loads(made)["Statement"]
    assert kept == theirs
    assert ours["Condition"]["ArnEquals"]["aws:SourceArn"] == [
        "arn:aws:sns:eu-west-1:1:unibus",
        "arn:aws:sns:eu-west-1:1:unibus.fifo",
    ]
    assert policy_with(made, arn) is None


@pytest.mark.parametrize("region", ["eu-west-1", "us-gov-west-1", "ap-southeast-7", "us-iso-east-1", "eusc-de-east-1"])
def test_regions(region: str) -> None:
    assert place(Url(f"sqs://{region}")).region == region


def test_without_sns_there_are_no_topics() -> None:
    driver = SqsDriver(Url("sqs://eu-west-1?topics=off"), SystemClock())
    told = driver.capabilities
    assert (told.groups, told.patterns, told.topic_ordering, told.queue_ordering) == ("none", "none", "none", "native")

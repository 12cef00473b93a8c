"""What a message looks like on the wire, and what is read from one: without a server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st

from unibus.driver import Outbound
from unibus_rabbitmq import envelope
from unibus_rabbitmq.envelope import Received

NAMES = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=20).filter(
    lambda name: name not in ("id", "partitionkey", "specversion", "time")
)
HEADERS = st.text("ABCxyz-_.0", min_size=1, max_size=20).filter(lambda name: not envelope.is_broker_made(name))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def library(data: bytes) -> spec.Basic.Properties:
    """As the client library reads it."""
    properties = spec.Basic.Properties()
    properties.unmarshal(int.from_bytes(data[:2], "big"), data[2:])
    return properties


def of_library(**properties: Any) -> bytes:
    """As the client library writes it."""
    return spec.Basic.Properties(**properties).marshal()


@given(
    attributes=st.dictionaries(NAMES, TEXTS, max_size=8),
    headers=st.dictionaries(HEADERS, TEXTS, max_size=8),
    key=st.none() | TEXTS,
    topic=st.none() | TEXTS,
    body=st.none() | st.binary(max_size=3),
)
def test_what_is_written_is_read(
    attributes: dict[str, str], headers: dict[str, str], key: str | None, topic: str | None, body: bytes | None
) -> None:
    data = envelope.write(Outbound(body, dict(attributes), headers, key, "id-1"), "attempt-1", topic)
    said = Received(data)
    assert said.message_id == "id-1"
    assert (said.attributes, said.headers) == (attributes, headers)
    assert (said.key, said.topic or None, said.no_body) == (key, topic or None, body is None)
    assert library(data).message_id == "attempt-1"


def test_a_program_without_unibus_finds_cloudevents_and_native_properties() -> None:
    attributes = {
        "type": "order", "source": "shop", "time": "2026-01-02T03:04:05.678Z", "datacontenttype": "application/json",
        "correlationid": "c-1", "traceparent": "00-ab-cd-01",
    }  # fmt: skip
    properties = library(
        envelope.write(Outbound(b"{}", attributes, {"tenant": "7"}, "k", "id-1", priority=3), "a", None)
    )
    assert properties.content_type == "application/json"
    assert properties.delivery_mode == 2
    assert (properties.message_type, properties.app_id, properties.correlation_id) == ("order", "shop", "c-1")
    assert (properties.message_id, properties.priority) == ("a", 3)
    assert properties.timestamp == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert properties.headers == {
        "cloudEvents:specversion": "1.0",
        "cloudEvents:id": "id-1",
        "cloudEvents:type": "order",
        "cloudEvents:source": "shop",
        "cloudEvents:time": "2026-01-02T03:04:05.678Z",
        "cloudEvents:correlationid": "c-1",
        "cloudEvents:traceparent": "00-ab-cd-01",
        "cloudEvents:partitionkey": "k",
        "tenant": "7",
    }


def test_a_message_without_cloudevents_is_read_by_its_native_properties() -> None:
    said = Received(
        of_library(
            content_type="application/json", message_id="m-1", message_type="order", app_id="shop", correlation_id="c",
            content_encoding="gzip", reply_to="answers", timestamp=datetime(2026, 1, 2, tzinfo=UTC), headers={"a": "1"},
        )
    )  # fmt: skip
    assert said.message_id == "m-1"
    assert said.attributes == {
        "datacontenttype": "application/json", "type": "order", "source": "shop", "correlationid": "c",
        "contentencoding": "gzip", "replyto": "answers", "time": "2026-01-02T00:00:00Z",
    }  # fmt: skip
    assert said.headers == {"a": "1"}
    assert said.sent_at == datetime(2026, 1, 2, tzinfo=UTC).timestamp()


def test_headers_of_any_type_are_read_as_text() -> None:
    headers: dict[str, Any] = {
        "text": "ü", "number": 7, "long": 2**40, "float": 0.5, "yes": True, "no": False, "none": None,
        "raw": bytearray(b"\xff"), "list": [1, "a"], "table": {"a": 1}, "time": datetime(2026, 1, 2, tzinfo=UTC),
    }  # fmt: skip
    assert Received(of_library(headers=headers)).headers == {
        "text": "ü", "number": "7", "long": str(2**40), "float": "0.5", "yes": "true", "no": "false", "none": "",
        "raw": "\ufffd", "list": '[1, "a"]', "table": '{"a": 1}', "time": "2026-01-02T00:00:00+00:00",
    }  # fmt: skip


def test_the_other_cloudevents_prefix_is_known_too() -> None:
    said = Received(of_library(headers={"cloudEvents_id": "1", "cloudEvents_type": "t"}))
    assert (said.message_id, said.attributes) == ("1", {"type": "t"})


def test_what_the_broker_made_is_not_handed_out_and_its_counts_are_understood() -> None:
    made = {
        "x-death": [{"count": 1}], "x-first-death-queue": "q", "x-last-death-reason": "expired", "CC": ["a"],
        "BCC": ["b"], "x-delivery-count": 2, "x-acquired-count": 4, "x-mine": "stays",
    }  # fmt: skip
    said = Received(of_library(headers=made))
    assert said.headers == {"x-mine": "stays"}
    assert said.count == 4


@given(st.binary(max_size=60))
def test_nonsense_is_read_as_a_message_without_properties(data: bytes) -> None:
    assert Received(data).message_id


def test_an_attribute_that_is_too_long_for_a_native_property_is_whole_in_its_header() -> None:
    long = "ü" * 200
    data = envelope.write(Outbound(b"", {"type": long, "datacontenttype": long}, {}, None, "1"), "a", None)
    assert Received(data).attributes == {"type": long, "datacontenttype": long}
    assert library(data).message_type is None

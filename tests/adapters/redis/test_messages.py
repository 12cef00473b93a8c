"""How messages are spelled on streams and on channels."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibus.driver import Delivery, Outbound
from unibus_redis import context, keys
from unibus_redis.entries import Entry, deliveries_of, delivery_of, fields_of
from unibus_redis.listener import channels_of
from unibus_redis.structured import decoded, encoded

HEADERS = {"data": "1", "ce": "2", "tenant": "Grüße"}
MESSAGE = Outbound(b"\x00\xff", {"type": "t", "source": "s"}, HEADERS, "k", "id-1")
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def as_entry(fields: list[str | bytes], count: int = 1) -> Entry:
    return Entry(b"1700000000000-3", [one.encode() if isinstance(one, str) else one for one in fields], count, 0.0)


def test_an_entry_carries_all_of_a_message() -> None:
    delivery = delivery_of(as_entry(fields_of(MESSAGE, "a.b")), "queue")
    assert (delivery.body, delivery.attributes, delivery.headers) == (MESSAGE.body, MESSAGE.attributes, MESSAGE.headers)
    assert (delivery.key, delivery.message_id, delivery.address) == ("k", "id-1", "a.b")
    assert (delivery.sent_at, delivery.deliveries, delivery.redelivered) == (1_700_000_000.0, 1, False)


@given(
    TEXTS.filter(bool), st.none() | TEXTS, st.none() | TEXTS,
    st.dictionaries(st.sampled_from(["time", "type", "source", "traceparent", "unibusattempt"]), TEXTS),
)  # fmt: skip
def test_whatever_a_context_says_comes_back(
    message_id: str, key: str | None, topic: str | None, attributes: dict[str, str]
) -> None:
    message = Outbound(b"", attributes, {}, key, message_id)
    for _ in range(2):  # once as it is, once from what was remembered
        text = context.write(message, topic)
        assert context.read(text) == (message_id, key, topic, attributes)
        assert json.loads(text)["id"] == message_id


def test_of_an_id_or_a_key_that_stands_twice_the_last_counts() -> None:
    for text in ('{"id":"1","id":"2"}', '{"id":"1","type":"t","id":"2"}', '{"id":"2","partitionkey":"k"}'):
        known = context.read(text)
        assert known is not None
        assert (known[0], known[1]) == ("2", json.loads(text).get("partitionkey"))


@pytest.mark.parametrize(
    "beginning",
    ['"id":""', '"id":"1","id":"2"', '"id":"1","partitionkey":"k"', r'"id":"\u0041"', r'"id":"a\"b"', r'"id":"\\"'],
)
def test_what_was_remembered_of_the_message_before_is_used_for_plain_ids_alone(beginning: str) -> None:
    rest = ',"type":"t","specversion":"1.0"}'
    assert context.read('{"id":"0"' + rest) == ("0", None, None, {"type": "t"})
    fields = json.loads("{" + beginning + rest)
    assert context.read("{" + beginning + rest) == (fields["id"], fields.get("partitionkey"), None, {"type": "t"})
    assert context.read('{"id":"' + rest) is None


@pytest.mark.parametrize("text", ["", "x", "[]", "1", "{", '{"id":1,"a":null}', '{"id":"' + "[" * 100_000])
def test_a_context_that_is_none_does_no_harm(text: str) -> None:
    delivery = delivery_of(as_entry(["ce", text, "data", b"{}"]), "queue")
    assert (delivery.body, delivery.message_id, delivery.address) == (b"{}", "1700000000000-3", "queue")


def test_an_entry_that_was_given_back_keeps_its_count_and_its_time() -> None:
    notes: list[str | bytes] = ["unibus.returned", "2", "unibus.sent", "1600000000000"]
    delivery = delivery_of(as_entry([*notes, *fields_of(MESSAGE, None)]), "queue")
    assert (delivery.deliveries, delivery.redelivered, delivery.sent_at) == (3, True, 1_600_000_000.0)
    assert delivery.headers == HEADERS


def test_an_entry_of_a_foreign_producer_is_a_plain_message() -> None:
    delivery = delivery_of(as_entry(["data", b"{}", "tenant", "7", "unibus.returned", "x"]), "queue")
    assert (delivery.body, delivery.headers, delivery.message_id) == (b"{}", {"tenant": "7"}, "1700000000000-3")
    assert delivery.deliveries == 1


def of_a_foreign_producer(fields: dict[str, str]) -> list[str | bytes]:
    return [word for pair in fields.items() for word in pair]


ENTRIES = st.one_of(
    st.builds(
        Outbound, st.none() | st.binary(), st.dictionaries(st.sampled_from(["time", "type"]), TEXTS),
        st.dictionaries(TEXTS.filter(bool), TEXTS), st.none() | TEXTS, TEXTS,
    ).map(lambda message: fields_of(message, None)),
    st.dictionaries(st.sampled_from(["data", "ce", "tenant", "unibus.sent"]), TEXTS).map(of_a_foreign_producer),
)  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), ENTRIES), unique_by=lambda one: one[:2]))
def test_entries_that_are_read_together_are_what_each_is_alone(
    found: list[tuple[int, int, list[str | bytes]]],
) -> None:
    entries = [(b"170000000000%d-%d" % (moment, number), as_entry(fields).fields) for moment, number, fields in found]
    together = deliveries_of(entries, "queue", 0.0)
    assert list(together) == [entry_id for entry_id, _ in entries]
    for entry_id, fields in entries:
        alone = delivery_of(Entry(entry_id, fields, 1, 0.0), "queue")
        for name in Delivery.__slots__:
            if name not in ("token", "native"):
                assert getattr(together[entry_id], name) == getattr(alone, name)
        assert (together[entry_id].token.id, together[entry_id].token.count) == (entry_id, alone.token.count)


@pytest.mark.parametrize("content", ["application/json", "application/octet-stream"])
@pytest.mark.parametrize("headers", [{}, {"h": "Grüße"}], ids=["bare", "headers"])
@pytest.mark.parametrize("body", [b"", b"\x00\xff", b"{}", b'{"a": "},\\"data\\":"}', b"no json", None])
def test_a_channel_carries_all_of_a_message(body: bytes | None, headers: dict[str, str], content: str) -> None:
    attributes = {"type": "t", "datacontenttype": content, "time": "2026-01-01T00:00:00.000Z"}
    message = Outbound(body, attributes, headers, "k", "id-1")
    delivery, publish_id = decoded(encoded(message), "a.b")
    assert publish_id
    assert (delivery.body, delivery.attributes, delivery.headers) == (body, attributes, headers)
    assert (delivery.key, delivery.message_id, delivery.address) == ("k", "id-1", "a.b")
    assert delivery.sent_at == 1_767_225_600.0


def test_a_body_that_is_json_stands_in_its_event_as_it_is() -> None:
    message = Outbound(b'{"order": 7}', {"type": "t", "datacontenttype": "application/json"}, {}, None, "id-1")
    event = json.loads(encoded(message))
    assert (event["data"], event["type"], event["id"], event["specversion"]) == ({"order": 7}, "t", "id-1", "1.0")


def test_each_publish_has_an_id_of_its_own() -> None:
    assert decoded(encoded(MESSAGE), "t")[1] != decoded(encoded(MESSAGE), "t")[1]


def test_what_a_foreign_publisher_says_is_the_body_unless_it_is_an_event() -> None:
    assert decoded(b"plain", "t")[0].body == b"plain"
    assert decoded(b'{"a": 1}', "t")[0].body == b'{"a": 1}'
    event = json.dumps({"specversion": "1.0", "id": "1", "type": "x", "data": {"a": 1}}).encode()
    delivery, publish_id = decoded(event, "t")
    assert (delivery.body, delivery.message_id, delivery.attributes) == (b'{"a": 1}', "1", {"type": "x"})
    assert publish_id is None


@given(st.binary(max_size=60))
def test_whatever_is_said_on_a_channel_is_a_message(noise: bytes) -> None:
    for raw in (noise, b'{"unibushead":"' + noise, b'{"unibushead":"000040",' + noise, b'{"specversion":"1.0"' + noise):
        assert decoded(raw, "t")[0].address == "t"


@pytest.mark.parametrize(
    ("pattern", "channels"),
    [("a.b", "a.b"), ("a.*", "a.*"), ("a.#", "a*"), ("#.b", "*b"), ("a.#.b", "a*.b"), ("#", "*")],
)
def test_a_glob_covers_its_pattern(pattern: str, channels: str) -> None:
    assert channels_of(pattern) == channels


def test_what_belongs_to_a_stream_shares_its_slot_and_no_two_streams_share_it() -> None:
    from redis.crc import key_slot

    streams = ["orders", "{orders}", "a{orders}b", "{unibus}.group.g", "unibus.group.g.dlq"]
    for key_of in (keys.delayed, keys.active, keys.declared):
        assert len({key_of(stream) for stream in streams}) == len(streams)
        for stream in streams:
            assert key_slot(key_of(stream).encode()) == key_slot(stream.encode())

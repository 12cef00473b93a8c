"""What is sent is what is handled: payload, metadata, odd characters, limits."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel

from unibus.driver import Browser, Queue
from unibus.errors import BatchError, EncodeError, MessageTooLarge
from unibus.message import Message
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, again_at_once, drained
from unibus.testing.contract.needs import BROWSE, DELAY, GROUPS, MAX_BODY, needs
from unibus.testing.harness import Harness

ODD = {
    "plain": "value",
    "empty": "",
    "spaces": "  two  spaces  ",
    "umlaut": "Grüße",
    "emoji": "🚌 bus",
    "quotes": "\"'`",
    "punctuation": "~!@#$%^&*()_+-={}[]|\\:;<>,.?/",
    "json": '{"a": [1, 2]}',
    "percent": "%41%00%zz",
    "long": "x" * 2000,
    "tab": "a\tb",
}


class Order(BaseModel):
    """A payload with what JSON has and has not."""

    id: int
    name: str
    at: datetime
    lines: list[tuple[str, float]]

    message_type: ClassVar[str] = "contract.order"
    message_version: ClassVar[int] = 3


ORDER = Order(
    id=1, name="Grüße 🚌", at=datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC), lines=[("a", 0.1), ("b", -2e300)]
)


class Roundtrip(Cases):
    async def test_a_payload_and_all_that_describes_it_arrive(self, harness: Harness) -> None:
        bus, name, got = harness.bus(name="shop"), harness.name("orders"), []

        @bus.consumer(name, guarantee=harness.queue_guarantee)
        @again_at_once
        async def handle(order: Order, message: Message[Order]) -> None:
            got.append((order, message))

        async with harness.running(bus):
            sent_id = await bus.producer(name, type=Order).send(ORDER, key="k-1", headers={"tenant": "7"})
            await harness.until(lambda: bool(got), "the message is handled")
        ((order, message),) = got
        assert order == ORDER
        assert message.id == sent_id
        assert message.type == "contract.order"
        assert message.version == "3"
        assert message.source == "shop"
        assert message.key == "k-1"
        assert message.headers == {"tenant": "7"}
        assert message.attempt == 1
        assert message.address == name
        assert message.redelivered is False
        assert message.timestamp is not None
        assert message.correlation_id == sent_id
        assert message.causation_id is None

    async def test_every_kind_of_json_arrives_as_it_was(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("values"), Ledger(harness)
        values: list[Any] = [0, -1, 1.5, True, "", "text", [], {}, [[1], {"a": {"b": []}}], 2**60, "\u2028\x7f"]
        ledger.consume(bus, name)
        async with harness.running(bus):
            await bus.producer(name).send_many(values)
            await harness.until(lambda: len(ledger.data) >= len(values), "all values are handled")
        assert sorted(map(json.dumps, ledger.data)) == sorted(map(json.dumps, values))

    @pytest.mark.parametrize(
        "body",
        [b"", b"\x00", bytes(range(256)), b"\xff\xfe not utf-8 \x80", b"\r\n\r\n", "Grüße".encode("utf-16")],
        ids=["empty", "nul", "all-bytes", "not-utf-8", "line-breaks", "utf-16"],
    )
    async def test_bytes_arrive_as_they_are(self, harness: Harness, body: bytes) -> None:
        bus, name, got = harness.bus(), harness.name("raw"), []

        @bus.consumer(name, guarantee=harness.queue_guarantee)
        @again_at_once
        async def handle(data: bytes) -> None:
            got.append(data)

        async with harness.running(bus):
            await bus.producer(name, type=bytes).send(body)
            await harness.until(lambda: bool(got), "the body is handled")
        assert got == [body]

    async def test_odd_headers_arrive_as_they_are(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("headers"), Ledger(harness)
        ledger.consume(bus, name)
        async with harness.running(bus):
            await bus.producer(name).send(1, headers=ODD)
            await ledger.has([1])
        assert ledger.messages[0].headers == ODD

    @needs(GROUPS)
    async def test_odd_headers_arrive_at_a_group(self, harness: Harness) -> None:
        bus, ledger = harness.bus(), Ledger(harness)
        ledger.subscribe(bus, harness.name("headers"), group=harness.name("odd"))
        async with harness.running(bus):
            await bus.publisher(harness.name("headers")).publish(1, headers=ODD, key="Schlüssel")
            await ledger.has([1])
        assert ledger.messages[0].headers == ODD
        assert ledger.messages[0].key == "Schlüssel"

    @pytest.mark.parametrize(
        "headers",
        [
            {"line": "a\nb"},
            {"nul": "a\0b"},
            {"unibusattempt": "7"},
            {"ce_id": "1"},
            {"spa ce": "1"},
            {"": "1"},
            {"long": "x" * 4097},
            {f"h{n}": "" for n in range(65)},
        ],
        ids=["line-break", "nul", "ours", "cloudevents", "space", "no-name", "long", "many"],
    )
    async def test_headers_that_do_not_travel_everywhere_are_refused(
        self, harness: Harness, headers: dict[str, str]
    ) -> None:
        bus, name, ledger = harness.bus(), harness.name("headers"), Ledger(harness)
        ledger.consume(bus, name)
        async with harness.running(bus):
            with pytest.raises(EncodeError):
                await bus.producer(name).send(1, headers=headers)
            await bus.producer(name).send(2)
            await ledger.has([2])

    async def test_keys_of_any_characters_arrive(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("keys"), Ledger(harness)
        keys = ["plain", "with space", "Grüße", "🚌", "a/b:c.d", "x" * 128, "0", None]
        ledger.consume(bus, name)
        async with harness.running(bus):
            for number, key in enumerate(keys):
                await bus.producer(name).send(number, key=key)
            await ledger.has(range(len(keys)))
        assert {message.data: message.key for message in ledger.messages} == dict(enumerate(keys))

    async def test_a_payload_of_another_type_does_not_leave(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("orders"), Ledger(harness)
        ledger.consume(bus, name)
        async with harness.running(bus):
            with pytest.raises(EncodeError):
                await bus.producer(name, type=Order).send({"id": "x"})  # type: ignore[arg-type]
            with pytest.raises(EncodeError):
                await bus.producer(name).send(object())
            with pytest.raises(BatchError) as failed:
                await bus.producer(name).send_many([1, object(), 3])
            assert failed.value.errors.keys() == {1}
            await ledger.has([1, 3])

    async def test_send_many_takes_any_iterable_and_confirms_all(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("many"), Ledger(harness)
        ledger.consume(bus, name)

        async def numbers() -> Any:
            for number in range(700, 1400):
                yield number

        async with harness.running(bus):
            assert await bus.producer(name).send_many(range(700)) == 700
            assert await bus.producer(name).send_many(numbers()) == 700
            assert await bus.producer(name).send_many([]) == 0
            await ledger.has(range(1400))

    @needs(MAX_BODY)
    async def test_a_body_at_the_limit_passes_and_one_above_is_refused(self, harness: Harness) -> None:
        limit = harness.capabilities.max_body
        assert limit is not None
        if harness.capabilities.body_limit_counts_metadata:
            limit -= 2048  # attributes and headers count, too
            too_large = harness.capabilities.max_body or 0
        else:
            too_large = limit + 1
        bus, name, sizes = harness.bus(), harness.name("large"), []

        @bus.consumer(name, guarantee=harness.queue_guarantee)
        @again_at_once
        async def handle(data: bytes) -> None:
            sizes.append(len(data))

        async with harness.running(bus):
            producer = bus.producer(name, type=bytes)
            await producer.send(b"x" * (limit - 1))
            await producer.send(b"x" * limit)
            with pytest.raises(MessageTooLarge) as refused:
                await producer.send(b"x" * too_large)
            assert refused.value.limit == harness.capabilities.max_body
            assert refused.value.size >= too_large
            with pytest.raises(BatchError) as failed:
                await producer.send_many([b"1", b"x" * too_large, b"23"])
            assert isinstance(failed.value.errors[1], MessageTooLarge)
            await harness.until(lambda: len(sizes) >= 4, "the others arrive")
            await harness.silent()
        assert sorted(sizes) == [1, 2, limit - 1, limit]

    async def test_the_driver_is_at_hand(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("native"), Ledger(harness)
        ledger.consume(bus, name)
        async with harness.running(bus):
            assert bus.driver.capabilities == harness.capabilities
            await bus.producer(name).send(1)
            await ledger.has([1])
        assert hasattr(ledger.messages[0], "native")

    @needs(DELAY)
    async def test_all_of_it_survives_a_delay(self, harness: Harness) -> None:
        bus, name, got = harness.bus(name="shop"), harness.name("later"), []

        @bus.consumer(name, guarantee=harness.queue_guarantee)
        @again_at_once
        async def handle(order: Order, message: Message[Order]) -> None:
            got.append((order, message))

        async with harness.running(bus):
            sent_id = await bus.producer(name).send(ORDER, key="k", headers=ODD, delay=1, correlation_id="c")
            await harness.until(lambda: bool(got), "the message is handled")
        ((order, message),) = got
        assert order == ORDER
        assert (message.id, message.key, message.headers) == (sent_id, "k", ODD)
        assert (message.type, message.version, message.source) == ("contract.order", "3", "shop")
        assert (message.address, message.correlation_id, message.attempt) == (name, "c", 1)

    @needs(BROWSE)
    async def test_browsing_touches_nothing(self, harness: Harness) -> None:
        maker, name = harness.bus(), harness.name("browsed")
        Ledger(harness).consume(maker, name)
        async with harness.running(maker):
            pass  # the queue is there
        bus = harness.bus()
        async with harness.connected(bus):
            await bus.producer(name).send_many(range(25))
            browser = bus.driver
            assert isinstance(browser, Browser)
            seen, cursor = [], None
            while True:
                page, cursor = await browser.browse(Queue(name), cursor, 10)
                seen += [int(delivery.body or b"") for delivery in page]
                if cursor is None:
                    break
            assert sorted(seen) == list(range(25))
        assert sorted(int(message.data) for message in await drained(harness, name, 25)) == list(range(25))

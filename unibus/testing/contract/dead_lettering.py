"""Dead letters: the bytes as they were, one complete record, confirmed before the ack."""

from __future__ import annotations

from typing import Any

import pytest

from unibus import attributes as names
from unibus.dead_letters import DeadLetter
from unibus.errors import ConnectionLost, Rejected
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.dead_letter import dead_letter
from unibus.middleware.retry import retry
from unibus.outcome import Reject
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.failures import Broken, confirmed_before_ack, skip_without_delay
from unibus.testing.contract.ledger import Ledger, difference, drained, once
from unibus.testing.contract.needs import GROUPS, RELIABLE_QUEUES, RELIABLE_TOPICS, needs
from unibus.testing.faults import Call, Faults, raising
from unibus.testing.harness import Harness


@needs(RELIABLE_QUEUES)
class DeadLettering(Cases):
    @pytest.mark.parametrize("wait", [0.0, pytest.param(1.2, id="delayed")])
    async def test_retries_end_in_a_dead_letter_with_a_complete_record(self, harness: Harness, wait: float) -> None:
        skip_without_delay(harness, wait)
        bus, name, got = harness.bus(name="shop"), harness.name("orders"), list[Message[Any]]()

        @bus.consumer(name)
        @retry(on=Broken, attempts=3, backoff=constant(wait))
        async def handle(message: Message[dict[str, int]]) -> None:
            got.append(message)
            raise Broken("out of paper")

        async with harness.running(bus):
            sent_id = await bus.producer(name).send({"id": 1}, key="k", headers={"a": "ü"}, correlation_id="c")
            await harness.until(lambda: bus.stats()[name].dead_lettered == 1, "it is a dead letter")
        assert [message.attempt for message in got] == [1, 2, 3]
        (letter,) = await drained(harness, name + ".dlq", 1)
        assert letter.body == got[0].body == b'{"id":1}'
        assert (letter.id, letter.key, letter.headers) == (sent_id, "k", {"a": "ü"})
        assert (letter.type, letter.source, letter.correlation_id) == ("dict", "shop", "c")
        assert letter.timestamp == got[0].timestamp
        record = DeadLetter.from_attributes(letter.attributes)
        assert record is not None
        assert "3" in record.reason
        assert record.error_type.endswith("failures.Broken")
        assert record.message == "out of paper"
        assert "raise Broken" in record.stack
        assert record.attempts == 3
        assert record.source == name
        assert (record.topic, record.group) == ("", "")
        assert "handle" in record.handler
        assert record.host
        first, last = names.parse_time(record.first_failure), record.last_failure_time
        assert first is not None
        assert last is not None
        assert (last - first).total_seconds() >= 2 * wait - 0.01
        assert letter.attempt == 1, "handled from the dead letters it starts afresh"

    @needs(GROUPS, RELIABLE_TOPICS)
    @pytest.mark.parametrize("wait", [0.0, pytest.param(1.2, id="delayed")])
    async def test_dead_letters_of_a_group_are_its_own(self, harness: Harness, wait: float) -> None:
        skip_without_delay(harness, wait)
        bus, topic, group, other = harness.bus(), harness.name("order.created"), harness.name("email"), Ledger(harness)
        other.subscribe(bus, topic, group=harness.name("other"))

        @bus.subscriber(topic, group=group)
        @retry(on=Broken, attempts=2, backoff=constant(wait))
        async def handle(number: int) -> None:
            raise Broken

        async with harness.running(bus):
            await bus.publisher(topic).publish(1)
            await harness.until(lambda: bus.stats()[group].dead_lettered == 1, "it is a dead letter")
            await other.has([1])
        (letter,) = await drained(harness, f"unibus.group.{group}.dlq", 1)
        record = DeadLetter.from_attributes(letter.attributes)
        assert record is not None
        assert (record.group, record.topic, record.attempts) == (group, topic, 2)
        assert letter.address == topic

    async def test_an_undecodable_payload_is_a_dead_letter_at_once_with_its_bytes(self, harness: Harness) -> None:
        bus, name, handled = harness.bus(), harness.name("orders"), list[int]()
        bad = [b"", b"not json", b'"text"', b"\xff\xfe", b'{"a":', b"[1, 2]"]

        @bus.consumer(name)
        @retry(on=Exception, attempts=5, backoff=constant(0))
        async def handle(number: int) -> None:
            handled.append(number)

        async with harness.running(bus):
            await bus.producer(name).send_many([1, 2])
            await bus.producer(name, type=bytes).send_many(bad)
            await bus.producer(name).send(3)
            await harness.until(lambda: bus.stats()[name].dead_lettered == len(bad), "they are dead letters")
            await harness.until(lambda: len(handled) >= 3, "the others are handled")
            assert bus.stats()[name].retried == 0
        assert sorted(handled) == [1, 2, 3]
        letters = await drained(harness, name + ".dlq", len(bad))
        assert not difference([letter.body for letter in letters], bad)
        records = [DeadLetter.from_attributes(letter.attributes) for letter in letters]
        assert all(record is not None and record.attempts == 1 for record in records)
        assert all(record is not None and record.error_type.endswith("DecodeError") for record in records)

    async def test_dead_letters_may_be_named_or_dropped(self, harness: Harness) -> None:
        bus, first, second = harness.bus(), harness.name("first"), harness.name("second")
        elsewhere = harness.name("elsewhere")

        @bus.consumer(first)
        @dead_letter(elsewhere)
        @once
        async def to_elsewhere(number: int) -> None:
            raise Reject

        @bus.consumer(second)
        @dead_letter(None)
        @once
        async def to_nowhere(number: int) -> None:
            raise Reject

        async with harness.running(bus):
            await bus.producer(first).send(1)
            await bus.producer(second).send(2)
            await harness.until(lambda: bus.stats()[second].dropped == 1, "it is dropped and counted")
            await harness.until(lambda: bus.stats()[first].dead_lettered == 1, "it is a dead letter")
        assert [letter.body for letter in await drained(harness, elsewhere, 1)] == [b"1"]

    async def test_a_dead_letter_is_confirmed_before_the_ack(self, harness: Harness) -> None:
        await confirmed_before_ack(harness, None)

    @pytest.mark.parametrize("error", [Rejected, ConnectionLost])
    async def test_while_dead_letters_cannot_be_written_nothing_is_acked(
        self, harness: Harness, error: type[Exception]
    ) -> None:
        faults, name, handled = Faults(), harness.name("orders"), list[int]()
        bus = harness.bus(faults=faults)
        faults.add("send", raising(error), when=_to(name + ".dlq"), times=None)

        @bus.consumer(name)
        @once
        async def handle(number: int) -> None:
            handled.append(number)
            if number < 10:
                raise Reject("no")

        async with harness.running(bus):
            await bus.producer(name).send_many(range(10))
            await harness.until(lambda: bus.stats()[name].send_failures >= 20, "it is tried again and again")
            assert len(handled) == 10, "the handler is not run again for it"
            assert not faults.of("settle")
            assert len(faults.held) == 10
            assert not bus.health().ready
            faults.clear()
            await harness.until(lambda: bus.stats()[name].dead_lettered >= 10, "they drain")
            await bus.producer(name).send(10)
            await harness.until(lambda: 10 in handled, "and it goes on")
            await harness.until(lambda: bus.health().ready, "well again")
        letters = await drained(harness, name + ".dlq", 10)
        assert not difference([int(letter.data) for letter in letters], range(10))


def _to(name: str) -> Any:
    def is_to(call: Call) -> bool:
        return call.name == name

    return is_to

"""What becomes of a message whose handler fails: tried again, then a dead letter with its story, never lost."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import Any

import pytest

from unibus import attributes as names
from unibus.dead_letters import DeadLetter
from unibus.driver import Outbound, Queue
from unibus.errors import ConnectionLost, Rejected
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.dead_letter import dead_letter
from unibus.middleware.retry import retry
from unibus.middleware.timeout import timeout
from unibus.outcome import Drop, Reject, Retry
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, again_at_once, difference, drained
from unibus.testing.contract.needs import DELAY, GROUPS, RELIABLE_QUEUES, RELIABLE_TOPICS, needs
from unibus.testing.faults import Call, Faults, Hold, raising
from unibus.testing.harness import Harness

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Broken(Exception):
    """What handlers here raise."""


@needs(RELIABLE_QUEUES)
class Failures(Cases):
    async def test_a_message_is_acked_after_its_handler_and_not_before(self, harness: Harness) -> None:
        faults, name, running, go_on = Faults(), harness.name("orders"), asyncio.Event(), asyncio.Event()
        bus = harness.bus(faults=faults)

        @bus.consumer(name)
        @again_at_once
        async def handle(number: int) -> None:
            running.set()
            await go_on.wait()

        async with harness.running(bus):
            await bus.producer(name).send(1)
            await harness.passing(running.wait())
            await harness.silent()
            assert not faults.of("settle")
            go_on.set()
            await harness.until(lambda: not faults.held, "it is settled")

    async def test_a_failure_is_handled_again(self, harness: Harness) -> None:
        bus, name, attempts = harness.bus(), harness.name("orders"), defaultdict[int, list[int]](list)

        @bus.consumer(name)
        @retry(on=Broken, attempts=4, backoff=constant(0.1))
        async def handle(message: Message[int]) -> None:
            attempts[message.data].append(message.attempt)
            if message.attempt <= message.data % 4:
                raise Broken

        async with harness.running(bus):
            await bus.producer(name).send_many(range(100))
            await harness.until(lambda: sum(map(len, attempts.values())) >= 250, "all are handled")
            await harness.silent()
        assert dict(attempts) == {number: list(range(1, number % 4 + 2)) for number in range(100)}
        await drained(harness, name + ".dlq", 0)

    async def test_failures_of_one_consumer_go_on_with_the_next(self, harness: Harness) -> None:
        name, handled = harness.name("orders"), list[int]()
        for turn in range(3):
            bus, failures = harness.bus(), list[int]()

            @bus.consumer(name)
            @retry(on=Broken, attempts=50, backoff=constant(0.5))
            async def handle(
                number: int, turn: int = turn, failures: list[int] = failures  # noqa: B006
            ) -> None:
                if number % 3 > turn:
                    failures.append(number)
                    raise Broken
                handled.append(number)

            async with harness.running(bus):
                if turn == 0:
                    await bus.producer(name).send_many(range(60))
                await harness.until(
                    lambda turn=turn: len(handled) >= 20 * (turn + 1), "what can be handled is"
                )
        assert not difference(handled, range(60))

    @pytest.mark.parametrize("wait", [0.0, pytest.param(1.2, id="delayed")])
    async def test_retries_end_in_a_dead_letter_with_a_complete_record(self, harness: Harness, wait: float) -> None:
        _skip_without_delay(harness, wait)
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
        _skip_without_delay(harness, wait)
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

    async def test_a_handler_decides(self, harness: Harness) -> None:
        bus, name, runs = harness.bus(), harness.name("orders"), Counter[str]()

        @bus.consumer(name)
        @retry(on=Broken, attempts=3, backoff=constant(0))
        async def handle(what: str, message: Message[str]) -> None:
            runs[what] += 1
            if what == "reject":
                raise Reject("not for us")
            if what == "drop":
                raise Drop
            if what == "retry" and message.attempt == 1:
                raise Retry(after=0.2)
            if what == "untaken":
                raise KeyError(what)

        async with harness.running(bus):
            await bus.producer(name).send_many(["reject", "drop", "retry", "untaken", "fine"])
            await harness.until(lambda: sum(runs.values()) >= 6, "all have run")
            await harness.silent()
            assert bus.stats()[name].dropped == 1
        assert runs == {"reject": 1, "drop": 1, "retry": 2, "untaken": 1, "fine": 1}
        letters = {letter.body: letter for letter in await drained(harness, name + ".dlq", 2)}
        assert letters.keys() == {b'"reject"', b'"untaken"'}
        record = DeadLetter.from_attributes(letters[b'"reject"'].attributes)
        assert record is not None
        assert record.reason == "not for us"

    async def test_dead_letters_may_be_named_or_dropped(self, harness: Harness) -> None:
        bus, first, second = harness.bus(), harness.name("first"), harness.name("second")
        elsewhere = harness.name("elsewhere")

        @bus.consumer(first)
        @dead_letter(elsewhere)
        async def to_elsewhere(number: int) -> None:
            raise Reject

        @bus.consumer(second)
        @dead_letter(None)
        async def to_nowhere(number: int) -> None:
            raise Reject

        async with harness.running(bus):
            await bus.producer(first).send(1)
            await bus.producer(second).send(2)
            await harness.until(lambda: bus.stats()[second].dropped == 1, "it is dropped and counted")
            await harness.until(lambda: bus.stats()[first].dead_lettered == 1, "it is a dead letter")
        assert [letter.body for letter in await drained(harness, elsewhere, 1)] == [b"1"]

    @needs(DELAY)
    async def test_equal_delayed_retries_all_arrive(self, harness: Harness) -> None:
        bus, name, runs = harness.bus(), harness.name("orders"), list[tuple[int, float]]()

        @bus.consumer(name)
        @retry(on=Broken, attempts=6, backoff=constant(1))
        async def handle(message: Message[int]) -> None:
            runs.append((message.attempt, harness.now()))
            if message.attempt < 6:
                raise Broken

        async with harness.running(bus):
            await bus.producer(name).send(1)
            await harness.until(lambda: len(runs) >= 6, "five retries arrive")
            await harness.silent()
        assert [attempt for attempt, _ in runs] == [1, 2, 3, 4, 5, 6]
        assert all(later - sooner >= 0.999 for (_, sooner), (_, later) in zip(runs, runs[1:], strict=False)), "early"
        await drained(harness, name + ".dlq", 0)

    @needs(DELAY)
    async def test_a_delayed_retry_changes_nothing_but_the_attempt(self, harness: Harness) -> None:
        bus, name, got = harness.bus(name="shop"), harness.name("orders"), list[Message[Any]]()

        @bus.consumer(name)
        @retry(on=Broken, attempts=3, backoff=constant(1))
        async def handle(message: Message[Any]) -> None:
            got.append(message)
            if message.attempt < 3:
                raise Broken

        async with harness.running(bus):
            await bus.producer(name).send([1.5, "ü"], key="k", headers={"a": "🚌"}, correlation_id="c")
            await harness.until(lambda: len(got) >= 3, "two retries")
        assert [message.attempt for message in got] == [1, 2, 3]
        for message in got[1:]:
            first = got[0]
            assert (message.id, message.body, message.key, message.headers) == (first.id, first.body, first.key, first.headers)
            assert (message.type, message.source, message.correlation_id) == (first.type, first.source, "c")
            assert (message.timestamp, message.address) == (first.timestamp, name)

    @needs(DELAY)
    async def test_a_delayed_retry_is_confirmed_before_the_ack(self, harness: Harness) -> None:
        await _confirmed_before_ack(harness, constant(2))

    async def test_a_dead_letter_is_confirmed_before_the_ack(self, harness: Harness) -> None:
        await _confirmed_before_ack(harness, None)

    async def test_a_killed_process_loses_no_retry_that_waits_in_it(self, harness: Harness) -> None:
        name, failed, ledger = harness.name("orders"), list[int](), Ledger(harness)
        first, second = harness.bus(), harness.bus()
        ledger.consume(second, name)

        @first.consumer(name)
        @retry(on=Broken, attempts=3, backoff=constant(0.9))
        async def fail(number: int) -> None:
            failed.append(number)
            raise Broken

        async with harness.running(first):
            await first.producer(name).send_many(range(10))
            await harness.until(lambda: len(failed) >= 10, "all have failed once")
            await harness.abandon(first)
        async with harness.running(second):
            await ledger.has(range(10))

    async def test_a_retry_that_waits_survives_a_shutdown_with_its_attempt(self, harness: Harness) -> None:
        name, failed, ledger = harness.name("orders"), list[int](), Ledger(harness)
        first, second = harness.bus(), harness.bus()
        ledger.consume(second, name)

        @first.consumer(name)
        @retry(on=Broken, attempts=3, backoff=constant(0.9))
        async def fail(message: Message[int]) -> None:
            failed.append(message.data)
            raise Broken

        async with harness.running(first):
            await first.producer(name).send_many(range(10))
            await harness.until(lambda: len(failed) >= 10, "all have failed once")
        async with harness.running(second):
            await ledger.has(range(10))
        assert {message.attempt for message in ledger.messages} <= {2, 3}

    @pytest.mark.parametrize("attempt", ["-1", "0", "NaN", "1e3", "", "٣", "99999999999999999999"])
    async def test_a_forged_attempt_does_no_harm(self, harness: Harness, attempt: str) -> None:
        bus, name, attempts = harness.bus(), harness.name("orders"), list[int]()

        @bus.consumer(name)
        @retry(on=Broken, attempts=2, backoff=constant(0))
        async def handle(message: Message[int]) -> None:
            attempts.append(message.attempt)
            raise Broken

        async with harness.running(bus):
            forged = Outbound(b"1", {names.ATTEMPT: attempt, names.FIRST_FAILURE: "yesterday"}, {}, None, "forged")
            await bus.driver.send(Queue(name), [forged])
            await harness.until(lambda: bus.stats()[name].dead_lettered == 1, "it is a dead letter")
        assert attempts == [1, 2] or (attempt.startswith("999") and len(attempts) == 1)

    async def test_a_timeout_is_a_failure_like_any_other(self, harness: Harness) -> None:
        bus, name, attempts = harness.bus(), harness.name("orders"), list[int]()

        @bus.consumer(name)
        @retry(on=TimeoutError, attempts=2, backoff=constant(0))
        @timeout(0.5)
        async def handle(message: Message[int]) -> None:
            attempts.append(message.attempt)
            await asyncio.Event().wait()

        async with harness.running(bus):
            await bus.producer(name).send(1)
            await harness.until(lambda: bus.stats()[name].dead_lettered == 1, "it is a dead letter")
        assert attempts == [1, 2]
        (letter,) = await drained(harness, name + ".dlq", 1)
        record = DeadLetter.from_attributes(letter.attributes)
        assert record is not None
        assert record.error_type == "TimeoutError"

    @pytest.mark.parametrize("error", [Rejected, ConnectionLost])
    async def test_while_dead_letters_cannot_be_written_nothing_is_acked(
        self, harness: Harness, error: type[Exception]
    ) -> None:
        faults, name, handled = Faults(), harness.name("orders"), list[int]()
        bus = harness.bus(faults=faults)
        faults.add("send", raising(error), when=_to(name + ".dlq"), times=None)

        @bus.consumer(name)
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

    @needs(DELAY)
    async def test_while_retries_cannot_be_sent_nothing_is_acked_and_no_attempt_is_spent(self, harness: Harness) -> None:
        faults, name, attempts = Faults(), harness.name("orders"), list[int]()
        bus = harness.bus(faults=faults)

        @bus.consumer(name)
        @retry(on=Broken, attempts=3, backoff=constant(1))
        async def handle(message: Message[int]) -> None:
            attempts.append(message.attempt)
            if message.attempt < 3:
                raise Broken

        async with harness.running(bus):
            await bus.producer(name).send(1)
            faults.add("send", raising(ConnectionLost), when=lambda call: call.items[0].delay > 0, times=4)
            await harness.until(lambda: len(attempts) >= 3, "it is handled in the end")
            await harness.silent()
        assert attempts == [1, 2, 3]


@needs(GROUPS, RELIABLE_TOPICS)
class GroupFailures(Cases):
    @pytest.mark.parametrize("wait", [0.0, pytest.param(1.2, id="delayed")])
    async def test_a_retry_reaches_its_group_alone(self, harness: Harness, wait: float) -> None:
        _skip_without_delay(harness, wait)
        topic, runs, others = harness.name("order.created"), list[int](), [Ledger(harness), Ledger(harness)]
        bus = harness.bus()
        for number, other in enumerate(others):
            other.subscribe(bus, topic, group=harness.name(f"other{number}"))

        @bus.subscriber(topic, group=harness.name("failing"))
        @retry(on=Broken, attempts=3, backoff=constant(wait))
        async def handle(message: Message[int]) -> None:
            runs.append(message.attempt)
            if message.attempt < 3:
                raise Broken

        async with harness.running(bus):
            await bus.publisher(topic).publish(1)
            await harness.until(lambda: len(runs) >= 3, "three runs")
            for other in others:
                await other.has([1])
        assert runs == [1, 2, 3]

    @needs(DELAY)
    async def test_a_delayed_retry_keeps_its_topic_and_is_handled(self, harness: Harness) -> None:
        topics, got = [harness.name(f"user.{what}") for what in ("created", "renamed")], list[tuple[int, str]]()
        bus = harness.bus()

        @bus.subscriber(*topics, group=harness.name("group"))
        @retry(on=Broken, attempts=3, backoff=constant(1))
        async def handle(message: Message[int]) -> None:
            got.append((message.attempt, message.address))
            if message.attempt < 3:
                raise Broken

        async with harness.running(bus):
            for topic in topics:
                await bus.publisher(topic).publish(1, headers={"a": "b"})
            await harness.until(lambda: len(got) >= 6, "all runs")
            assert bus.stats()[harness.name("group")].unmatched == 0
        assert sorted(got) == sorted((attempt, topic) for attempt in (1, 2, 3) for topic in topics)


def _skip_without_delay(harness: Harness, wait: float) -> None:
    if wait and not DELAY.met(harness):
        pytest.skip(f"needs {DELAY.name}")


def _to(name: str) -> Any:
    def is_to(call: Call) -> bool:
        return call.name == name

    return is_to


async def _confirmed_before_ack(harness: Harness, backoff: Any) -> None:
    """The re-send or dead letter is held on its way to the broker: meanwhile the message must stay unsettled."""
    faults, hold, name, runs = Faults(), Hold(), harness.name("orders"), list[int]()
    bus = harness.bus(faults=faults)
    faults.add("send", hold, when=lambda call: bool(runs))

    @bus.consumer(name)
    @retry(on=Broken, attempts=1 if backoff is None else 2, backoff=backoff)
    async def handle(message: Message[int]) -> None:
        runs.append(message.attempt)
        if message.attempt == 1:
            raise Broken

    async with harness.running(bus):
        await bus.producer(name).send(1)
        await harness.passing(hold.reached.wait())
        for _ in range(50):
            await asyncio.sleep(0)
        assert not faults.of("settle"), "settled before the confirm"
        hold.release()
        await harness.until(lambda: bool(faults.of("settle")), "settled after the confirm")

"""What becomes of a message whose handler fails: tried again, then a dead letter with its story, never lost."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest

from unibus import attributes as names
from unibus.bus import Bus
from unibus.dead_letters import DeadLetter
from unibus.driver import Outbound, Queue
from unibus.errors import ConnectionLost
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.retry import retry
from unibus.middleware.timeout import timeout
from unibus.outcome import Drop, Reject, Retry
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, again_at_once, difference, drained, reaches
from unibus.testing.contract.needs import DELAY, RELIABLE_QUEUES, needs
from unibus.testing.faults import Faults, Hold, raising
from unibus.testing.harness import Harness


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

        def failing_above(most: int) -> Bus:
            bus = harness.bus()

            @bus.consumer(name)
            @retry(on=Broken, attempts=50, backoff=constant(0.5))
            async def handle(number: int) -> None:
                if number % 3 > most:
                    raise Broken
                handled.append(number)

            return bus

        for turn in range(3):
            bus = failing_above(turn)
            async with harness.running(bus):
                if turn == 0:
                    await bus.producer(name).send_many(range(60))
                await harness.until(reaches(handled, 20 * (turn + 1)), "what can be handled is")
        assert not difference(handled, range(60))

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
        assert all(later - sooner >= 0.999 for (_, sooner), (_, later) in pairwise(runs)), "early"
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
            assert (message.id, message.body, message.key, message.headers) == (
                first.id,
                first.body,
                first.key,
                first.headers,
            )
            assert (message.type, message.source, message.correlation_id) == (first.type, first.source, "c")
            assert (message.timestamp, message.address) == (first.timestamp, name)

    @needs(DELAY)
    async def test_a_delayed_retry_is_confirmed_before_the_ack(self, harness: Harness) -> None:
        await confirmed_before_ack(harness, constant(2))

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

    @needs(DELAY)
    async def test_while_retries_cannot_be_sent_nothing_is_acked_and_no_attempt_is_spent(
        self, harness: Harness
    ) -> None:
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


def skip_without_delay(harness: Harness, wait: float) -> None:
    if wait and not DELAY.met(harness):
        pytest.skip(f"needs {DELAY.name}")


async def confirmed_before_ack(harness: Harness, backoff: Any) -> None:
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

"""Handlers of batches: each message ends by its own mark, or as the batch does."""

from __future__ import annotations

from collections import Counter

from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.idempotent import idempotent
from unibus.middleware.retry import retry
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.idempotence import payload
from unibus.testing.contract.ledger import again_at_once, difference, drained
from unibus.testing.contract.needs import RELIABLE_QUEUES, needs
from unibus.testing.harness import Harness


@needs(RELIABLE_QUEUES)
class Batches(Cases):
    async def test_batches_are_bounded_and_complete(self, harness: Harness) -> None:
        bus, name, sizes, handled = harness.bus(), harness.name("orders"), list[int](), list[int]()

        @bus.consumer(name, concurrency=1, max_batch=30, max_wait=0.2)
        @again_at_once
        async def handle(messages: list[Message[int]]) -> None:
            sizes.append(len(messages))
            handled.extend(message.data for message in messages)

        async with harness.running(bus):
            await bus.producer(name).send_many(range(200))
            await harness.until(lambda: len(handled) >= 200, "all are handled")
            await harness.silent()
        assert not difference(handled, range(200))
        assert max(sizes) <= 30
        assert max(sizes) > 1

    async def test_a_part_of_a_batch_does_not_wait_for_ever(self, harness: Harness) -> None:
        bus, name, sizes = harness.bus(), harness.name("orders"), list[int]()

        @bus.consumer(name, concurrency=1, max_batch=1000, max_wait=0.3)
        @again_at_once
        async def handle(messages: list[Message[int]]) -> None:
            sizes.append(len(messages))

        async with harness.running(bus):
            await bus.producer(name).send(1)
            await harness.until(lambda: sizes == [1], "it is handled alone", within=5)

    async def test_marked_messages_end_as_marked_and_the_others_are_done(self, harness: Harness) -> None:
        bus, name, runs = harness.bus(), harness.name("orders"), Counter[int]()

        @bus.consumer(name, concurrency=1, max_batch=20)
        @retry(on=Exception, attempts=3, backoff=constant(0))
        async def handle(messages: list[Message[int]]) -> None:
            for message in messages:
                runs[message.data] += 1
                if message.data % 5 == 1 and message.attempt == 1:
                    message.retry(after=0.1)
                if message.data % 5 == 2:
                    message.reject("no")
                if message.data % 5 == 3:
                    message.retry()

        async with harness.running(bus):
            await bus.producer(name).send_many(range(20))
            await harness.until(lambda: sum(runs.values()) >= 32, "all have ended")
            await harness.until(lambda: bus.stats()[name].dead_lettered == 8, "eight dead letters")
            await harness.silent()
        assert runs == {number: {1: 2, 3: 3}.get(number % 5, 1) for number in range(20)}
        letters = await drained(harness, name + ".dlq", 8)
        assert {int(letter.data) for letter in letters} == {n for n in range(20) if n % 5 in (2, 3)}

    async def test_an_exception_fails_each_message_of_the_batch(self, harness: Harness) -> None:
        bus, name, runs = harness.bus(), harness.name("orders"), Counter[int]()

        @bus.consumer(name, concurrency=1, max_batch=10)
        @retry(on=ConnectionError, attempts=2, backoff=constant(0))
        async def handle(messages: list[Message[int]]) -> None:
            runs.update(message.data for message in messages)
            if any(message.attempt == 1 for message in messages):
                raise ConnectionError

        async with harness.running(bus):
            await bus.producer(name).send_many(range(10))
            await harness.until(lambda: bus.stats()[name].handled + bus.stats()[name].dead_lettered >= 10, "all end")
            await harness.silent()
        assert set(runs) == set(range(10))
        assert all(count == 2 for count in runs.values())

    async def test_an_undecodable_one_does_not_fail_its_batch(self, harness: Harness) -> None:
        bus, name, handled = harness.bus(), harness.name("orders"), list[int]()

        @bus.consumer(name, concurrency=1, max_batch=10)
        @again_at_once
        async def handle(messages: list[Message[int]]) -> None:
            handled.extend(message.data for message in messages)

        async with harness.running(bus):
            for number in range(9):
                await bus.producer(name).send(number if number != 4 else "four")
            await harness.until(lambda: len(handled) >= 8, "the others are handled")
            await harness.until(lambda: bus.stats()[name].dead_lettered == 1, "it is a dead letter")
        assert not difference(handled, set(range(9)) - {4})
        assert [letter.body for letter in await drained(harness, name + ".dlq", 1)] == [b'"four"']

    async def test_duplicates_in_and_across_batches_have_one_effect(self, harness: Harness) -> None:
        bus, name, effects, failed = harness.bus(), harness.name("orders"), list[int](), set[int]()

        @bus.consumer(name, concurrency=3, max_batch=20)
        @idempotent(key=payload, store="memory")
        @retry(on=Exception, attempts=4, backoff=constant(0))
        async def handle(messages: list[Message[int]]) -> None:
            for message in messages:
                if message.data % 4 == 0 and message.data not in failed:
                    failed.add(message.data)
                    message.retry()
                else:
                    effects.append(message.data)

        async with harness.running(bus):
            await bus.producer(name).send_many([number % 40 for number in range(120)])
            await harness.until(lambda: len(effects) + bus.stats()[name].skipped >= 120, "all are handled or skipped")
            await harness.silent()
        assert not difference(effects, range(40))

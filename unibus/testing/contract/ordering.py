"""Order by key: what is stored is in the order of the calls, and is handled in that order, whatever fails."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest

from unibus.bus import Bus
from unibus.driver import Limits, Topic
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.retry import retry
from unibus.outcome import Reject
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.keys import Unreliable, assert_in_order, assert_told_truly, key_of, ordered_queue
from unibus.testing.contract.ledger import Ledger, again_at_once, difference, drained, reaches
from unibus.testing.contract.needs import (
    GROUPS,
    ORDERED_QUEUES,
    ORDERED_TOPICS,
    RELIABLE_QUEUES,
    RELIABLE_TOPICS,
    needs,
)
from unibus.testing.faults import Faults
from unibus.testing.harness import Harness


@needs(ORDERED_QUEUES, RELIABLE_QUEUES)
class Ordering(Cases):
    async def test_a_key_is_handled_in_order_and_one_at_a_time(self, harness: Harness) -> None:
        bus, queue, handled, running = harness.bus(), ordered_queue(harness), list[int](), set[int]()
        chance = random.Random(7)

        @bus.consumer(queue, concurrency=20)
        @again_at_once
        async def handle(number: int) -> None:
            assert number % 7 not in running, "two of one key at once"
            running.add(number % 7)
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            running.discard(number % 7)
            handled.append(number)

        count = harness.load // 2
        async with harness.running(bus):
            await bus.producer(queue).send_many(range(count), key=key_of)
            await harness.until(lambda: len(handled) >= count, "all are handled")
            await harness.silent()
        assert not difference(handled, range(count))
        assert_in_order(handled)

    async def test_the_next_of_a_key_is_withheld_and_other_keys_go_on(self, harness: Harness) -> None:
        bus, queue, handled, go_on = harness.bus(), ordered_queue(harness), list[int](), asyncio.Event()

        @bus.consumer(queue, concurrency=5)
        @again_at_once
        async def handle(number: int) -> None:
            if number == 0:
                await go_on.wait()
            handled.append(number)

        async with harness.running(bus):
            await bus.producer(queue).send_many(range(70), key=key_of)
            await harness.until(lambda: len(handled) >= 60, "the other keys are handled")
            await harness.silent()
            assert not [number for number in handled if number % 7 == 0], "key 0 is withheld"
            go_on.set()
            await harness.until(lambda: len(handled) >= 70, "key 0 is handled")
        assert not difference(handled, range(70))
        assert_in_order(handled)

    @pytest.mark.parametrize("wait", [0.0, 0.3, 1.5])
    async def test_a_key_waits_for_its_failing_message(self, harness: Harness, wait: float) -> None:
        bus, queue, handled = harness.bus(), ordered_queue(harness), list[int]()
        failed: set[int] = set()

        @bus.consumer(queue, concurrency=5)
        @retry(on=ConnectionError, attempts=3, backoff=constant(wait))
        async def handle(number: int) -> None:
            if number % 10 == 3 and number not in failed:
                failed.add(number)
                raise ConnectionError
            handled.append(number)

        async with harness.running(bus):
            await bus.producer(queue).send_many(range(100), key=key_of)
            await harness.until(lambda: len(handled) >= 100, "all are handled")
            await harness.silent()
        assert not difference(handled, range(100))
        assert_in_order(handled)

    async def test_a_dead_letter_frees_its_key(self, harness: Harness) -> None:
        bus, queue, handled = harness.bus(), ordered_queue(harness), list[int]()

        @bus.consumer(queue)
        @retry(on=ConnectionError, attempts=2, backoff=constant(0))
        async def handle(number: int) -> None:
            if number in (7, 8):
                raise ConnectionError
            if number == 9:
                raise Reject("no")
            handled.append(number)

        async with harness.running(bus):
            await bus.producer(queue).send_many(range(35), key=key_of)
            await harness.until(lambda: len(handled) >= 32, "the others are handled")
            await harness.silent()
        assert not difference(handled, set(range(35)) - {7, 8, 9})
        assert_in_order(handled)
        assert {int(letter.data) for letter in await drained(harness, queue.dead_letters, 3)} == {7, 8, 9}

    async def test_a_blocked_key_waits_for_as_long_as_it_fails(self, harness: Harness) -> None:
        bus, queue, handled, broken = harness.bus(), ordered_queue(harness), list[int](), [True]

        @bus.consumer(queue)
        @retry(on=ConnectionError, attempts=2, backoff=constant(0.2), on_exhausted="block")
        async def handle(message: Message[int]) -> None:
            if message.data == 0 and broken[0]:
                broken[0] = message.attempt < 5
                raise ConnectionError
            handled.append(message.data)

        async with harness.running(bus):
            await bus.producer(queue).send_many(range(14), key=key_of)
            await harness.until(lambda: len(handled) >= 14, "all are handled")
        assert_in_order(handled)

    async def test_a_killed_consumer_is_followed_in_order(self, harness: Harness) -> None:
        queue, handled, effects = ordered_queue(harness), list[int](), dict[int, None]()

        def consumer(stop_at: int) -> Bus:
            bus = harness.bus()

            @bus.consumer(queue, concurrency=5)
            @again_at_once
            async def handle(number: int) -> None:
                await asyncio.sleep(0)
                if len(handled) >= stop_at:
                    await asyncio.Event().wait()
                handled.append(number)
                effects[number] = None

            return bus

        first = consumer(60)
        async with harness.running(first):
            await first.producer(queue).send_many(range(140), key=key_of)
            await harness.until(lambda: len(handled) >= 60, "some are handled")
            await harness.abandon(first)
        async with harness.running(consumer(10**6)):
            await harness.until(lambda: len(effects) >= 140, "the rest is handled")
            await harness.silent()
        assert not difference(handled, range(140), twice=True)
        assert_in_order(list(effects))

    async def test_a_consumer_that_stops_is_followed_in_order(self, harness: Harness) -> None:
        queue, effects = ordered_queue(harness), dict[int, None]()

        def consumer() -> Bus:
            bus = harness.bus()

            @bus.consumer(queue, concurrency=5, prefetch=20)
            @again_at_once
            async def handle(number: int) -> None:
                await asyncio.sleep(0)
                effects[number] = None  # on a log what came after a hole comes twice

            return bus

        sender = harness.bus()
        async with harness.running(consumer()):
            pass  # it has made the queue
        async with harness.connected(sender):
            await sender.producer(queue).send_many(range(210), key=key_of)
        for stop_at in (40, 100, 210):  # with more in hand than was begun, and more in the queue than in hand
            async with harness.running(consumer()):
                await harness.until(reaches(effects, stop_at), f"{stop_at} are handled")
        assert_in_order(list(effects))

    async def test_messages_without_a_key_pass_too(self, harness: Harness) -> None:
        bus, queue, ledger = harness.bus(), ordered_queue(harness), Ledger(harness)
        ledger.consume(bus, queue)
        async with harness.running(bus):
            await bus.producer(queue).send_many(range(50))
            await bus.producer(queue).send_many(range(50, 100), key=lambda number: "k" if number % 2 else None)
            await ledger.has(range(100))


@needs(GROUPS, ORDERED_TOPICS, RELIABLE_TOPICS)
class GroupOrdering(Cases):
    async def test_a_group_handles_each_key_in_the_order_of_publishing(self, harness: Harness) -> None:
        bus, handled, failed = harness.bus(), list[int](), set[int]()
        topic = Topic(harness.name("changes"), ordering="key")

        @bus.subscriber(topic.name, group=harness.name("group"), ordering="key", concurrency=10)
        @retry(on=ConnectionError, attempts=3, backoff=constant(0.2))
        async def handle(number: int) -> None:
            await asyncio.sleep(0)
            if number % 20 == 5 and number not in failed:
                failed.add(number)
                raise ConnectionError
            handled.append(number)

        async with harness.running(bus):
            publisher = bus.publisher(topic)
            await publisher.publish_many(range(200), key=key_of)
            await harness.gather(*[publisher.publish(number, key=key_of(number)) for number in range(200, 400)])
            await harness.until(lambda: len(handled) >= 400, "all are handled")
            await harness.silent()
        assert not difference(handled, range(400))
        assert_in_order(handled)

    async def test_published_with_failing_batches_the_order_is_kept(self, harness: Harness) -> None:
        faults = Faults(narrow=lambda c: replace(c, send=Limits(messages=9, calls=3)))
        bus, other, ledger = harness.bus(faults=faults), harness.bus(), Ledger(harness)
        topic = Topic(harness.name("changes"), ordering="key")
        ledger.subscribe(other, topic.name, group=harness.name("group"), ordering="key")
        faults.add("send", Unreliable(random.Random(17)), times=None)
        async with harness.running(other), harness.connected(bus):
            sends = [bus.publisher(topic).publish(number, key=key_of(number)) for number in range(300)]
            outcomes = dict(enumerate(await harness.gather(*sends)))
            confirmed = {number for number, outcome in outcomes.items() if isinstance(outcome, str)}
            await harness.until(lambda: confirmed <= set(ledger.data), "what was confirmed is handled")
            await harness.silent()
        assert_told_truly(outcomes, ledger.data)

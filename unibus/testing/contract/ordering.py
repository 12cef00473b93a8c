"""Order by key: what is stored is in the order of the calls, and is handled in that order, whatever fails."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from dataclasses import replace

import pytest

from unibus.bus import Bus
from unibus.driver import Capabilities, Limits, Queue, Topic
from unibus.errors import NotSent, OutcomeUnknown, Rejected
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.retry import retry
from unibus.outcome import Reject
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, again_at_once, difference, drained
from unibus.testing.contract.needs import (
    GROUPS,
    ORDERED_QUEUES,
    ORDERED_TOPICS,
    RELIABLE_QUEUES,
    RELIABLE_TOPICS,
    needs,
)
from unibus.testing.faults import Call, Faults, Hold, Proceed, rejecting, unanswered
from unibus.testing.harness import Harness

KEYS = [f"key-{number}" for number in range(7)]


def ordered_queue(harness: Harness) -> Queue:
    return Queue(harness.name("ordered"), ordering="key")


def by_key(numbers: list[int]) -> dict[int, list[int]]:
    """Numbers are sent with the key `number % 7`."""
    found: dict[int, list[int]] = defaultdict(list)
    for number in numbers:
        found[number % 7].append(number)
    return found


def assert_in_order(numbers: list[int]) -> None:
    for key, ones in by_key(numbers).items():
        inverted = [(a, b) for a, b in zip(ones, ones[1:], strict=False) if a > b]
        assert not inverted, f"key {key}: {inverted[:5]}"


def key_of(number: int) -> str:
    return KEYS[number % 7]


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

    async def test_five_hundred_gathered_sends_with_failing_batches_keep_the_order(self, harness: Harness) -> None:
        def small_batches(capabilities: Capabilities) -> Capabilities:
            return replace(capabilities, send=Limits(messages=min(9, capabilities.send.messages), calls=3, min_messages=1))

        faults = Faults(narrow=small_batches)
        faults.add("send", _Unreliable(random.Random(11)), times=None)
        bus, queue = harness.bus(faults=faults), ordered_queue(harness)
        await _made(harness, queue)
        outcomes: dict[int, object] = {}

        async def send(number: int) -> None:
            try:
                outcomes[number] = await bus.producer(queue).send(number, key=key_of(number))
            except (Rejected, NotSent, OutcomeUnknown) as error:
                outcomes[number] = error

        async with harness.connected(bus):
            bus.producer(queue)
            await harness.gather(*[send(number) for number in range(500)])
        stored = [int(message.data) for message in await _all_of(harness, queue)]
        _assert_told_truly(outcomes, stored)
        kinds = {type(outcome) for outcome in outcomes.values()}
        assert kinds >= {str, Rejected, NotSent, OutcomeUnknown}, "each kind of outcome came about"

    async def test_send_many_with_failing_batches_keeps_the_order(self, harness: Harness) -> None:
        faults, queue = Faults(narrow=lambda c: replace(c, send=Limits(messages=8, calls=4))), ordered_queue(harness)
        faults.add("send", _Unreliable(random.Random(13)), times=None)
        bus = harness.bus(faults=faults)
        await _made(harness, queue)
        outcomes: dict[int, object] = dict.fromkeys(range(500), "confirmed")
        async with harness.connected(bus):
            failed = (await harness.gather(bus.producer(queue).send_many(range(500), key=key_of)))[0]
        outcomes |= failed.errors
        stored = [int(message.data) for message in await _all_of(harness, queue)]
        _assert_told_truly(outcomes, stored)

    async def test_after_a_failure_the_queued_ones_of_its_key_do_not_leave(self, harness: Harness) -> None:
        faults, hold, queue = Faults(narrow=lambda c: replace(c, send=Limits(messages=1, calls=8))), Hold(), ordered_queue(harness)
        bus = harness.bus(faults=faults)
        await _made(harness, queue)

        async def hold_then_refuse(call: Call, proceed: Proceed) -> None:
            await hold(call, lambda items: rejecting()(call, proceed))

        faults.add("send", hold_then_refuse)
        async with harness.connected(bus):
            producer = bus.producer(queue)
            first = asyncio.ensure_future(producer.send(0, key="a"))
            await hold.reached.wait()
            behind = [asyncio.ensure_future(producer.send(number, key="a")) for number in (1, 2)]
            other = asyncio.ensure_future(producer.send(3, key="b"))
            await harness.passing(other)
            hold.release()
            outcomes = await harness.gather(first, *behind)
            assert [type(outcome) for outcome in outcomes] == [Rejected, NotSent, NotSent]
            await producer.send(4, key="a")
        assert [int(message.data) for message in await drained(harness, queue, 2)] == [3, 4]

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
        faults.add("send", _Unreliable(random.Random(17)), times=None)
        async with harness.running(other), harness.connected(bus):
            sends = [bus.publisher(topic).publish(number, key=key_of(number)) for number in range(300)]
            outcomes = dict(enumerate(await harness.gather(*sends)))
            confirmed = {number for number, outcome in outcomes.items() if isinstance(outcome, str)}
            await harness.until(lambda: confirmed <= set(ledger.data), "what was confirmed is handled")
            await harness.silent()
        _assert_told_truly(outcomes, ledger.data)


class _Unreliable:
    """Lets some calls take their time, refuses some messages of some, and does not answer for others."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def __call__(self, call: Call, proceed: Proceed, /) -> None:
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)
        unlucky = {id(message) for message in call.items if self._chance.random() < 0.2}
        fault = self._chance.choice([None, None, rejecting, unanswered])
        if fault is None:
            await proceed(call.items)
        else:
            await fault(lambda message: id(message) in unlucky)(call, proceed)


async def _made(harness: Harness, queue: Queue) -> None:
    """The queue exists; nobody consumes from it."""
    bus = harness.bus()
    Ledger(harness).consume(bus, queue)
    async with harness.connected(bus):
        pass


async def _all_of(harness: Harness, queue: Queue) -> list[Message[int]]:
    """All that is stored, in the order in which it is handed out."""
    bus, ledger = harness.bus(), Ledger(harness)
    ledger.consume(bus, queue, concurrency=1)
    async with harness.running(bus):
        await harness.until(lambda: bool(ledger.messages), "something is stored")
        await harness.silent()
    return ledger.messages


def _assert_told_truly(outcomes: dict[int, object], stored: list[int]) -> None:
    confirmed = {number for number, outcome in outcomes.items() if isinstance(outcome, str)}
    unknown = {number for number, outcome in outcomes.items() if isinstance(outcome, OutcomeUnknown)}
    others = {n for n, o in outcomes.items() if not isinstance(o, (str, OutcomeUnknown, Rejected, NotSent))}
    assert not others, f"holes are named by Rejected, NotSent or OutcomeUnknown, not by {[outcomes[n] for n in others][:3]}"
    assert confirmed <= set(stored), f"confirmed and not stored: {sorted(confirmed - set(stored))[:10]}"
    assert set(stored) <= confirmed | unknown, f"stored though not sent: {sorted(set(stored) - confirmed - unknown)[:10]}"
    assert len(stored) == len(set(stored)), "stored twice"
    assert_in_order(stored)

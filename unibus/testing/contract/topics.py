"""Topics: patterns, groups, subscribers without a group, and where a group begins."""

from __future__ import annotations

import pytest

from unibus.errors import Rejected
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.retry import retry
from unibus.outcome import Reject
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, difference
from unibus.testing.contract.needs import (
    EARLIEST,
    EPHEMERAL,
    GROUPS,
    PATTERNS,
    RELIABLE_TOPICS,
    SUBSCRIPTIONS,
    needs,
)
from unibus.testing.faults import Faults, rejecting
from unibus.testing.harness import Harness

PATTERNS_AND_TOPICS = [
    ("order.created", {"order.created"}),
    ("order.*", {"order.created", "order.paid"}),
    ("*.created", {"order.created", "user.created", "orders.created"}),
    ("order.#", {"order", "order.created", "order.paid", "order.paid.late"}),
    ("#.late", {"order.paid.late"}),
    ("*.*.*", {"order.paid.late"}),
    ("order.#.late", {"order.paid.late"}),
    (
        "#",
        {"order", "order.created", "order.paid", "order.paid.late", "user.created", "order-created", "orders.created"},
    ),
]
TOPICS = sorted(PATTERNS_AND_TOPICS[-1][1])


class Topics(Cases):
    @needs(GROUPS, PATTERNS)
    @pytest.mark.parametrize(
        ("pattern", "expected"), PATTERNS_AND_TOPICS, ids=[pattern for pattern, _ in PATTERNS_AND_TOPICS]
    )
    async def test_a_group_gets_what_its_pattern_matches(
        self, harness: Harness, pattern: str, expected: set[str]
    ) -> None:
        bus, ledger = harness.bus(), Ledger(harness)
        ledger.subscribe(bus, harness.name(pattern), group=harness.name("group"))
        async with harness.running(bus):
            for topic in (*TOPICS, "order.created.dlq"):
                await bus.publisher(harness.name(topic)).publish(topic)
            await ledger.has(expected)
        assert {message.address for message in ledger.messages} == {harness.name(topic) for topic in expected}

    @needs(EPHEMERAL, PATTERNS)
    async def test_a_subscriber_without_a_group_gets_what_its_pattern_matches(self, harness: Harness) -> None:
        bus, ledger = harness.bus(), Ledger(harness)
        ledger.subscribe(bus, harness.name("order.*"))
        async with harness.running(bus):
            for topic in TOPICS:
                await bus.publisher(harness.name(topic)).publish(topic)
            await ledger.has({"order.created", "order.paid"})

    @needs(GROUPS, PATTERNS)
    async def test_what_is_sent_to_a_queue_reaches_no_pattern(self, harness: Harness) -> None:
        """Queues and topics are apart, also where both are the same to the broker, and whichever is there first."""
        bus, later, consumed, heard = harness.bus(), harness.bus(), Ledger(harness), Ledger(harness)
        queues = [harness.name(f"shop.orders{number}") for number in range(2)]
        consumed.consume(bus, queues[0])
        heard.subscribe(bus, harness.name("shop.#"), group=harness.name("group"))
        consumed.consume(later, queues[1])
        async with harness.running(bus), harness.running(later):
            for number, queue in enumerate(queues):
                await bus.producer(queue).send_many([f"queue {number}.{each}" for each in range(5)])
            await bus.publisher(harness.name("shop.opened")).publish("topic")
            await consumed.has([f"queue {number}.{each}" for number in range(2) for each in range(5)])
            await heard.has(["topic"])

    @needs(GROUPS, PATTERNS)
    async def test_two_patterns_that_match_deliver_once(self, harness: Harness) -> None:
        bus, ledger = harness.bus(), Ledger(harness)
        patterns = [harness.name(pattern) for pattern in ("order.*", "order.created", "#.created")]
        ledger.subscribe(bus, *patterns, group=harness.name("group"))
        async with harness.running(bus):
            await bus.publisher(harness.name("order.created")).publish(1)
            await bus.publisher(harness.name("order.paid")).publish(2)
            await ledger.has([1, 2])

    @needs(GROUPS)
    async def test_topics_do_not_leak(self, harness: Harness) -> None:
        bus, ledgers = harness.bus(), [Ledger(harness) for _ in range(3)]
        for number, ledger in enumerate(ledgers):
            ledger.subscribe(bus, harness.name(f"topic.n{number}"), group=harness.name(f"group{number}"))
        async with harness.running(bus):
            for number in range(30):
                await bus.publisher(harness.name(f"topic.n{number % 3}")).publish(number)
            for number, ledger in enumerate(ledgers):
                await ledger.has(range(number, 30, 3))

    @needs(SUBSCRIPTIONS)
    async def test_publishing_to_nobody_succeeds(self, harness: Harness) -> None:
        bus = harness.bus()
        async with harness.connected(bus):
            assert await bus.publisher(harness.name("nobody")).publish(1)
            assert await bus.publisher(harness.name("nobody")).publish_many(range(10)) == 10

    @needs(GROUPS)
    async def test_each_group_gets_all_and_its_members_share(self, harness: Harness) -> None:
        topic, members = harness.name("shared"), [(group, Ledger(harness)) for group in ("a", "a", "b", "b")]
        buses = [harness.bus() for _ in members]
        for bus, (group, ledger) in zip(buses, members, strict=True):
            ledger.subscribe(bus, topic, group=harness.name(group), concurrency=2, prefetch=4)
        async with harness.running(*buses):
            await buses[0].publisher(topic).publish_many(range(50))
            await harness.until(lambda: sum(len(ledger.messages) for _, ledger in members) >= 100, "both have all")
            await harness.silent()
        for wanted in ("a", "b"):
            got = [number for group, ledger in members if group == wanted for number in ledger.data]
            assert not difference(got, range(50)), wanted

    @needs(GROUPS)
    async def test_a_new_group_begins_with_what_comes_after(self, harness: Harness) -> None:
        topic, early, late = harness.name("news"), Ledger(harness), Ledger(harness)
        first, second = harness.bus(), harness.bus()
        early.subscribe(first, topic, group=harness.name("early"))
        late.subscribe(second, topic, group=harness.name("late"))
        async with harness.running(first):
            await first.publisher(topic).publish_many(range(10))
            await early.has(range(10))
            async with harness.running(second):
                await first.publisher(topic).publish_many(range(10, 20))
                await early.has(range(20))
                await late.has(range(10, 20))

    @needs(GROUPS, RELIABLE_TOPICS)
    async def test_a_group_keeps_what_is_published_while_it_is_away(self, harness: Harness) -> None:
        topic, ledger = harness.name("news"), Ledger(harness)
        bus, publisher = harness.bus(), harness.bus()
        ledger.subscribe(bus, topic, group=harness.name("group"))
        async with harness.running(bus):
            pass
        async with harness.connected(publisher):
            await publisher.publisher(topic).publish_many(range(20))
        async with harness.running(bus):
            await ledger.has(range(20))

    @needs(GROUPS, EARLIEST)
    async def test_a_group_may_begin_with_the_earliest(self, harness: Harness) -> None:
        topic, ledger, bus = harness.name("history"), Ledger(harness), harness.bus()
        async with harness.connected(bus):
            await bus.publisher(topic).publish_many(range(20))
        late = harness.bus()
        ledger.subscribe(late, topic, group=harness.name("late"), start="earliest")
        async with harness.running(late):
            await late.publisher(topic).publish(20)
            await ledger.has(range(21))

    @needs(EPHEMERAL)
    async def test_without_a_group_each_hears_what_is_published_while_it_is_there(self, harness: Harness) -> None:
        topic, ledgers = harness.name("ticker"), [Ledger(harness), Ledger(harness)]
        buses = [harness.bus(), harness.bus()]
        for bus, ledger in zip(buses, ledgers, strict=True):
            ledger.subscribe(bus, topic)
        async with harness.running(buses[0]):
            await buses[0].publisher(topic).publish(0)
            async with harness.running(buses[1]):
                await buses[0].publisher(topic).publish_many(range(1, 10))
                await ledgers[0].has(range(10))
                await ledgers[1].has(range(1, 10))
            await buses[0].publisher(topic).publish(10)
            await ledgers[0].has(range(11))
        async with harness.running(buses[1]):
            await buses[1].publisher(topic).publish(11)
            await ledgers[1].has([*range(1, 10), 11])

    @needs(EPHEMERAL, RELIABLE_TOPICS)
    async def test_without_a_group_a_failure_is_tried_again_by_that_one_alone(self, harness: Harness) -> None:
        topic, other, attempts = harness.name("ticker"), Ledger(harness), list[int]()
        bus, beside = harness.bus(), harness.bus()
        other.subscribe(beside, topic)

        @bus.subscriber(topic)
        @retry(on=ConnectionError, attempts=3, backoff=constant(1.5))
        async def fail_twice(message: Message[int]) -> None:
            attempts.append(message.attempt)
            if message.attempt < 3:
                raise ConnectionError

        async with harness.running(bus, beside):
            await bus.publisher(topic).publish(1)
            await harness.until(lambda: len(attempts) >= 3, "three runs")
            await harness.silent()
        assert attempts == [1, 2, 3]
        other.is_exactly([1])

    @needs(EPHEMERAL, RELIABLE_TOPICS)
    async def test_without_a_group_a_rejected_message_is_dropped_and_counted(self, harness: Harness) -> None:
        bus, topic = harness.bus(), harness.name("ticker")

        @bus.subscriber(topic)
        async def refuse(number: int) -> None:
            raise Reject("no")

        async with harness.running(bus):
            await bus.publisher(topic).publish(1)
            await harness.until(lambda: bus.stats()[topic].dropped == 1, "it is counted")

    @needs(GROUPS)
    async def test_published_in_one_call_each_message_finds_its_topic(self, harness: Harness) -> None:
        bus, ledgers = harness.bus(), [Ledger(harness) for _ in range(4)]
        for number, ledger in enumerate(ledgers):
            ledger.subscribe(bus, harness.name(f"t{number}"), group=harness.name(f"g{number}"))
        async with harness.running(bus):
            sends = [bus.publisher(harness.name(f"t{number % 4}")).publish(number) for number in range(200)]
            await harness.gather(*sends)
            for number, ledger in enumerate(ledgers):
                await ledger.has(range(number, 200, 4))

    @needs(GROUPS)
    async def test_a_publish_that_is_refused_is_an_error(self, harness: Harness) -> None:
        faults, topic, ledger = Faults(), harness.name("news"), Ledger(harness)
        bus = harness.bus(faults=faults)
        ledger.subscribe(bus, topic, group=harness.name("group"))
        faults.add("send", rejecting())
        async with harness.running(bus):
            with pytest.raises(Rejected):
                await bus.publisher(topic).publish(1)
            await bus.publisher(topic).publish(2)
            await ledger.has([2])

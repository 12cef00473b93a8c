"""What a broker lacks is refused at start, by name, and before anything is created; what it has is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unibus.bus import Bus
from unibus.driver import Queue
from unibus.errors import ConfigurationError, DestinationNotFound, TopologyMismatch, UnsupportedCapability
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.retry import retry
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, once
from unibus.testing.contract.needs import (
    DELAY,
    DELAY_LIMIT,
    EARLIEST,
    EPHEMERAL,
    GROUPS,
    ORDERED_QUEUES,
    ORDERED_TOPICS,
    PATTERNS,
    RELIABLE_QUEUES,
    RELIABLE_TOPICS,
    SUBSCRIPTIONS,
    Need,
    needs,
)
from unibus.testing.harness import Harness

Ask = Callable[[Harness, Bus], None]


def _queue(harness: Harness, bus: Bus) -> None:
    bus.consumer(harness.name("orders"))(_handler)


def _ordered_queue(harness: Harness, bus: Bus) -> None:
    ordered = Queue(harness.name("orders"), ordering="key")
    bus.consumer(ordered, guarantee=harness.queue_guarantee)(_handler)


def _group(harness: Harness, bus: Bus) -> None:
    bus.subscriber(harness.name("a"), group=harness.name("g"), guarantee=harness.topic_guarantee)(_handler)


def _reliable_group(harness: Harness, bus: Bus) -> None:
    bus.subscriber(harness.name("a"), group=harness.name("g"))(_handler)


def _ordered_group(harness: Harness, bus: Bus) -> None:
    bus.subscriber(harness.name("a"), group=harness.name("g"), ordering="key", guarantee=harness.topic_guarantee)(
        _handler
    )


def _earliest_group(harness: Harness, bus: Bus) -> None:
    bus.subscriber(harness.name("a"), group=harness.name("g"), start="earliest", guarantee=harness.topic_guarantee)(
        _handler
    )


def _ephemeral(harness: Harness, bus: Bus) -> None:
    bus.subscriber(harness.name("a"), guarantee=harness.topic_guarantee)(_handler)


def _pattern(harness: Harness, bus: Bus) -> None:
    group = harness.name("g") if GROUPS.met(harness) else None
    bus.subscriber(harness.name("a.*"), group=group, guarantee=harness.topic_guarantee)(_handler)


def _delayed_retry(harness: Harness, bus: Bus) -> None:
    handler = retry(on=Exception, attempts=2, backoff=constant(2))(_fresh())
    bus.consumer(harness.name("orders"), guarantee=harness.queue_guarantee)(handler)


ASKED: list[tuple[str, Ask, tuple[Need, ...]]] = [
    ("at-least-once-queue", _queue, (RELIABLE_QUEUES,)),
    ("at-least-once-group", _reliable_group, (RELIABLE_TOPICS, GROUPS)),
    ("ordered-queue", _ordered_queue, (ORDERED_QUEUES,)),
    ("group", _group, (GROUPS,)),
    ("ordered-group", _ordered_group, (GROUPS, ORDERED_TOPICS)),
    ("earliest-group", _earliest_group, (GROUPS, EARLIEST)),
    ("ephemeral", _ephemeral, (EPHEMERAL,)),
    ("pattern", _pattern, (PATTERNS, SUBSCRIPTIONS)),
    ("delayed-retry", _delayed_retry, (DELAY,)),
]


class Negotiation(Cases):
    @pytest.mark.parametrize(
        ("ask", "wanted"), [(ask, wanted) for _, ask, wanted in ASKED], ids=[name for name, *_ in ASKED]
    )
    async def test_a_program_starts_exactly_if_the_broker_can_do_what_it_asks(
        self, harness: Harness, ask: Ask, wanted: tuple[Need, ...]
    ) -> None:
        bus = harness.bus()
        ask(harness, bus)
        if all(need.met(harness) for need in wanted):
            async with harness.running(bus):
                await harness.until(lambda: bus.health().ready, "it runs")
            return
        with pytest.raises(UnsupportedCapability):
            await harness.passing(bus.__aenter__())
        checker = harness.bus()
        async with harness.connected(checker):
            with pytest.raises(DestinationNotFound):
                await checker.producer(harness.name("orders")).send(1)

    async def test_a_producer_s_delay_is_checked_at_start(self, harness: Harness) -> None:
        maker, bus, name = harness.bus(), harness.bus(), harness.name("orders")
        Ledger(harness).consume(maker, name)
        async with harness.connected(maker):
            bus.producer(name, delay=2)
            if DELAY.met(harness):
                async with harness.connected(bus):
                    return
            with pytest.raises(UnsupportedCapability):
                await harness.passing(bus.__aenter__())

    @needs(DELAY_LIMIT)
    async def test_waits_over_the_longest_delay_are_refused_at_start(self, harness: Harness) -> None:
        most = harness.capabilities.delay.max
        assert most is not None
        bus, producing = harness.bus(), harness.bus()
        handler = retry(on=Exception, attempts=2, backoff=constant(most + 1))(_fresh())
        bus.consumer(harness.name("orders"), guarantee=harness.queue_guarantee)(handler)
        producing.producer(harness.name("orders"), delay=most + 1)
        for refused in (bus, producing):
            with pytest.raises(UnsupportedCapability):
                await harness.passing(refused.__aenter__())

    @needs(ORDERED_QUEUES, RELIABLE_QUEUES)
    async def test_a_key_that_could_be_held_back_too_long_is_refused_at_start(self, harness: Harness) -> None:
        bus = harness.bus()
        handler = retry(on=Exception, attempts=100, backoff=constant(60))(_fresh())
        bus.consumer(Queue(harness.name("orders"), ordering="key"))(handler)
        with pytest.raises(UnsupportedCapability):
            await harness.passing(bus.__aenter__())

    @needs(EPHEMERAL)
    async def test_an_ephemeral_subscriber_waits_a_minute_at_most(self, harness: Harness) -> None:
        bus = harness.bus()
        handler = retry(on=Exception, attempts=2, backoff=constant(61))(_fresh())
        bus.subscriber(harness.name("news"), guarantee=harness.topic_guarantee)(handler)
        with pytest.raises(UnsupportedCapability):
            await harness.passing(bus.__aenter__())

    @needs(ORDERED_QUEUES)
    async def test_one_queue_declared_in_two_ways_is_refused(self, harness: Harness) -> None:
        first, second, name = harness.bus(), harness.bus(), harness.name("orders")
        Ledger(harness).consume(first, Queue(name, ordering="key"))
        async with harness.connected(first):
            pass
        Ledger(harness).consume(second, Queue(name))
        with pytest.raises((ConfigurationError, TopologyMismatch)):
            await harness.passing(second.__aenter__())


def _fresh() -> Callable[[Message[int]], object]:
    async def handle(message: Message[int]) -> None: ...

    return handle


_handler = once(_fresh())

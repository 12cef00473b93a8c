"""Delays: never early, none lost, and a long one holds back no short one."""

from __future__ import annotations

import pytest

from unibus.driver import Queue
from unibus.errors import ConfigurationError, UnsupportedCapability
from unibus.message import Message
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, again_at_once
from unibus.testing.contract.needs import DELAY, DELAY_LIMIT, LONG_DELAY, NO_DELAY, ORDERED_QUEUES, needs
from unibus.testing.harness import Harness

EARLY = 0.001
"""Seconds: the grain of clocks."""


class Delays(Cases):
    @needs(LONG_DELAY)
    async def test_a_second_sent_after_an_hour_comes_first(self, harness: Harness) -> None:
        bus, name, came = harness.bus(), harness.name("later"), dict[str, float]()

        @bus.consumer(name, guarantee=harness.queue_guarantee)
        @again_at_once
        async def handle(what: str) -> None:
            came[what] = harness.now()

        async with harness.running(bus):
            producer = bus.producer(name)
            started = harness.now()
            await producer.send("hour", delay=3600)
            await producer.send("second", delay=1)
            await producer.send("now")
            await harness.until(lambda: "second" in came, "the second is over", within=10)
            assert "hour" not in came
            assert came["now"] < started + 1 + harness.capabilities.delay.precision
            assert came["second"] - started >= 1 - EARLY
            if harness.longest_wait >= 3600:
                await harness.wait(3600 - 1 - (harness.now() - started))
                assert "hour" not in came, "early"
                await harness.until(lambda: "hour" in came, "the hour is over", within=60)
                assert came["hour"] - started >= 3600 - EARLY

    @needs(DELAY)
    async def test_no_delay_is_cut_short_and_none_runs_on(self, harness: Harness) -> None:
        bus, name, took = harness.bus(), harness.name("later"), dict[float, float]()
        sent_at: dict[float, float] = {}
        delays = [3.0, 0.2, 2.0, 0.5, 1.0, 1.5, 0.1, 2.5]

        @bus.consumer(name, guarantee=harness.queue_guarantee)
        @again_at_once
        async def handle(delay: float) -> None:
            took[delay] = harness.now() - sent_at[delay]

        async with harness.running(bus):
            for delay in delays:
                sent_at[delay] = harness.now()
                await bus.producer(name).send(delay, delay=delay)
            await harness.until(lambda: len(took) == len(delays), "all have come")
        slack = harness.capabilities.delay.precision + harness.slack
        assert all(delay - EARLY <= took[delay] <= delay + slack for delay in delays), took

    @needs(DELAY)
    async def test_equal_delays_all_arrive(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("later"), Ledger(harness)
        ledger.consume(bus, name)
        async with harness.running(bus):
            await bus.producer(name).send_many(range(200), delay=1)
            for number in range(200, 205):
                await bus.producer(name).send(number, delay=1)
            await ledger.has(range(205))

    @needs(DELAY)
    async def test_a_delay_goes_on_while_nobody_is_connected(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("later"), Ledger(harness)
        ledger.consume(bus, name)
        async with harness.running(bus):
            pass
        sender = harness.bus()
        async with harness.connected(sender):
            await sender.producer(name).send_many(range(5), delay=1)
            await sender.producer(name).send_many(range(5, 10), delay=2)
        await harness.wait(1.2)
        async with harness.running(bus):
            await ledger.has(range(10))

    @needs(DELAY)
    async def test_a_delay_survives_the_death_of_its_sender(self, harness: Harness) -> None:
        bus, sender, name, ledger = harness.bus(), harness.bus(), harness.name("later"), Ledger(harness)
        ledger.consume(bus, name)
        async with harness.running(bus, sender):
            await sender.producer(name).send_many(range(5), delay=1)
            await harness.abandon(sender)
            await ledger.has(range(5))

    @needs(DELAY)
    async def test_a_delayed_message_is_not_redelivered(self, harness: Harness) -> None:
        bus, name, got = harness.bus(), harness.name("later"), list[Message[int]]()

        @bus.consumer(name, guarantee=harness.queue_guarantee)
        @again_at_once
        async def handle(message: Message[int]) -> None:
            got.append(message)

        async with harness.running(bus):
            await bus.producer(name).send(1, delay=1)
            await harness.until(lambda: bool(got), "it comes")
        assert (got[0].attempt, got[0].redelivered) == (1, False)

    @needs(DELAY)
    async def test_a_producer_keeps_to_the_delay_that_it_stated(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("later"), Ledger(harness)
        ledger.consume(bus, name)
        async with harness.running(bus):
            producer = bus.producer(name, delay=2)
            await producer.send(1, delay=1)
            with pytest.raises(UnsupportedCapability):
                await producer.send(2, delay=3)
            with pytest.raises(ConfigurationError):
                await producer.send(3, delay=-1)
            await ledger.has([1])

    @needs(DELAY_LIMIT)
    async def test_a_delay_over_the_limit_is_refused_before_anything_leaves(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("later"), Ledger(harness)
        most = harness.capabilities.delay.max
        assert most is not None
        ledger.consume(bus, name)
        async with harness.running(bus):
            with pytest.raises(UnsupportedCapability):
                await bus.producer(name).send(1, delay=most + 1)
            with pytest.raises(UnsupportedCapability):
                await bus.producer(name).send_many([1, 2], delay=most + 1)
            await bus.producer(name).send(3)
            await ledger.has([3])

    @needs(NO_DELAY)
    async def test_without_delays_a_delay_is_refused_before_anything_leaves(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("later"), Ledger(harness)
        ledger.consume(bus, name)
        async with harness.running(bus):
            with pytest.raises(UnsupportedCapability):
                await bus.producer(name).send(1, delay=1)
            await bus.producer(name).send(2)
            await ledger.has([2])

    @needs(DELAY, ORDERED_QUEUES)
    async def test_a_delay_on_an_ordered_queue_is_refused(self, harness: Harness) -> None:
        bus, queue, ledger = harness.bus(), Queue(harness.name("ordered"), ordering="key"), Ledger(harness)
        ledger.consume(bus, queue)
        async with harness.running(bus):
            with pytest.raises(UnsupportedCapability):
                await bus.producer(queue).send(1, key="k", delay=1)
            await bus.producer(queue).send(2, key="k")
            await ledger.has([2])

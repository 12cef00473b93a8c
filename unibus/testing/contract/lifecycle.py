"""Opening, closing, and what is not there: nothing is lost at a close, and misuse is an error that says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from unibus.bus import Bus
from unibus.errors import DestinationNotFound, NotOpen, NotSent, OutcomeUnknown
from unibus.message import Message
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, again_at_once, difference, drained, reaches
from unibus.testing.contract.needs import RELIABLE_QUEUES, needs
from unibus.testing.faults import Faults, Hold
from unibus.testing.harness import Harness


class Lifecycle(Cases):
    async def test_nothing_works_before_it_is_open(self, harness: Harness) -> None:
        await _nothing_works(harness, harness.bus())

    async def test_nothing_works_after_it_is_closed(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("orders"), Ledger(harness)
        ledger.consume(bus, name)
        producer = bus.producer(name)
        async with harness.running(bus):
            await producer.send(1)
            await ledger.has([1])
        with pytest.raises(NotOpen):
            await producer.send(2)
        await _nothing_works(harness, bus)

    async def test_a_bus_can_be_opened_again(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("orders"), Ledger(harness)
        ledger.consume(bus, name)
        producer = bus.producer(name)
        for number in range(3):
            async with harness.running(bus):
                await producer.send(number)
                await ledger.has(range(number + 1))

    async def test_sending_to_a_queue_that_is_not_there_fails(self, harness: Harness) -> None:
        bus = harness.bus()
        async with harness.connected(bus):
            with pytest.raises(DestinationNotFound):
                await bus.producer(harness.name("nowhere")).send(1)
            with pytest.raises(DestinationNotFound):
                await bus.producer(harness.name("nowhere")).send_many([1, 2])

    async def test_a_producer_known_at_start_is_verified_at_start(self, harness: Harness) -> None:
        bus = harness.bus()
        bus.producer(harness.name("nowhere"))
        with pytest.raises(DestinationNotFound):
            await harness.passing(bus.__aenter__())

    async def test_a_consumer_that_may_not_create_its_queue_fails_at_start(self, harness: Harness) -> None:
        bus, ledger = harness.bus(declare="verify"), Ledger(harness)
        ledger.consume(bus, harness.name("nowhere"))
        with pytest.raises(DestinationNotFound):
            await harness.passing(bus.__aenter__())

    async def test_a_queue_made_by_its_consumer_stays(self, harness: Harness) -> None:
        first, second, name, ledger = (
            harness.bus(),
            harness.bus(declare="verify"),
            harness.name("orders"),
            Ledger(harness),
        )
        for bus in (first, second):
            ledger.consume(bus, name)
        async with harness.running(first):
            pass
        async with harness.running(second):
            await second.producer(name).send(1)
            await ledger.has([1])

    @needs(RELIABLE_QUEUES)
    async def test_what_was_sent_while_nobody_consumed_is_handled_later(self, harness: Harness) -> None:
        bus, name, ledger = harness.bus(), harness.name("orders"), Ledger(harness)
        ledger.consume(bus, name)
        async with harness.connected(bus):
            await bus.producer(name).send_many(range(100))
        async with harness.running(bus):
            await ledger.has(range(100))

    @needs(RELIABLE_QUEUES)
    async def test_thirty_cycles_of_receiving_and_closing_lose_nothing(self, harness: Harness) -> None:
        name, handled = harness.name("orders"), list[int]()
        maker = _noting(harness, name, handled)
        async with harness.connected(maker):
            await maker.producer(name).send_many(range(300))
        for _ in range(30):
            enough = len(handled) + 5
            async with harness.running(_noting(harness, name, handled, concurrency=3, prefetch=20)):
                await harness.until(reaches(handled, min(enough, 300)), "some are handled")
        async with harness.running(_noting(harness, name, handled)):
            await harness.until(lambda: set(handled) >= set(range(300)), "all are handled")
        assert not difference(handled, range(300), twice=True)

    @needs(RELIABLE_QUEUES)
    async def test_thirty_cycles_of_pulling_and_closing_lose_nothing(self, harness: Harness) -> None:
        name, taken = harness.name("orders"), list[int]()
        maker = _noting(harness, name, [])
        bus = harness.bus()
        async with harness.connected(maker, bus):
            await bus.producer(name).send_many(range(60))
            for _ in range(30):
                pulling = bus.pull(queue=name, type=int, prefetch=10)
                deliveries = await harness.passing(pulling.__aenter__())
                delivery = await harness.passing(deliveries.next(harness.patience))
                assert delivery is not None
                taken.append(delivery.data)
                await delivery.ack()
                await harness.passing(pulling.__aexit__(None, None, None))
        left = [int(message.data) for message in await drained(harness, name, 30)]
        assert not difference(taken + left, range(60))

    @needs(RELIABLE_QUEUES)
    async def test_batches_go_on_where_the_last_consumer_closed(self, harness: Harness) -> None:
        name, handled, count = harness.name("orders"), list[int](), harness.load
        for batch in range(5):
            upto = count * (batch + 1) // 5
            bus = _noting(harness, name, handled)
            async with harness.running(bus):
                await bus.producer(name).send_many(range(count * batch // 5, upto))
                await harness.until(reaches(handled, upto // 2), "half of them are handled")
        async with harness.running(_noting(harness, name, handled)):
            await harness.until(lambda: len(set(handled)) == count, "all are handled")
        assert not difference(handled, range(count), twice=True)

    @needs(RELIABLE_QUEUES)
    async def test_ten_consumers_opened_and_closed_at_once_harm_nothing(self, harness: Harness) -> None:
        name, handled = harness.name("orders"), list[int]()
        buses = [_noting(harness, name, handled) for _ in range(10)]
        first = _noting(harness, name, handled)
        async with harness.connected(first):
            await first.producer(name).send_many(range(50))

            async def open_and_close(bus: Bus) -> None:
                async with bus.consuming():
                    await asyncio.sleep(0)

            await harness.passing(asyncio.gather(*[open_and_close(bus) for bus in buses]))
            await first.producer(name).send_many(range(50, 100))
        async with harness.running(_noting(harness, name, handled)):
            await harness.until(lambda: set(handled) >= set(range(100)), "all are handled")
        assert not difference(handled, range(100), twice=True)

    @needs(RELIABLE_QUEUES)
    async def test_closing_after_parallel_sends_loses_none_that_was_confirmed(self, harness: Harness) -> None:
        faults, hold, name = Faults(), Hold(), harness.name("orders")
        bus = harness.bus(faults=faults)
        faults.add("send", hold)
        async with harness.connected(_noting(harness, name, [])):
            async with harness.connected(bus):
                producer = bus.producer(name)
                sends = [asyncio.ensure_future(producer.send(number)) for number in range(harness.load)]
                await hold.reached.wait()
                releasing = asyncio.ensure_future(_release(harness, hold))
            outcomes = await harness.gather(*sends)
            await harness.passing(releasing)
        confirmed = {number for number, outcome in enumerate(outcomes) if isinstance(outcome, str)}
        unknown = {number for number, outcome in enumerate(outcomes) if isinstance(outcome, OutcomeUnknown)}
        errors = [one for one in outcomes if not isinstance(one, (str, OutcomeUnknown, NotSent, NotOpen))]
        assert not errors
        handled: list[int] = []
        async with harness.running(_noting(harness, name, handled)):
            await harness.until(lambda: confirmed <= set(handled), "all that was confirmed is handled")
            await harness.silent()
        assert set(handled) <= confirmed | unknown
        assert len(confirmed) == harness.load, "a close flushes what is being sent"

    async def test_a_send_that_is_never_answered_ends_with_the_bus(self, harness: Harness) -> None:
        faults, name = Faults(), harness.name("orders")
        bus = harness.bus(faults=faults, grace=0.5)
        hold = Hold()
        faults.add("send", hold)
        async with harness.connected(_noting(harness, name, []), bus):
            sending = asyncio.ensure_future(bus.producer(name).send(1))
            await harness.passing(hold.reached.wait())
        with pytest.raises(OutcomeUnknown):
            await sending

    @needs(RELIABLE_QUEUES)
    async def test_many_consumers_under_load_lose_nothing(self, harness: Harness) -> None:
        name, ledgers = harness.name("orders"), [Ledger(harness) for _ in range(5)]
        buses = [harness.bus() for _ in ledgers]
        for bus, ledger in zip(buses, ledgers, strict=True):
            ledger.consume(bus, name, concurrency=5, prefetch=20)
        async with harness.running(*buses):
            await harness.passing(_send_all(buses[:3], name, harness.load))
            await harness.until(
                lambda: sum(len(ledger.messages) for ledger in ledgers) >= harness.load, "all are handled"
            )
            await harness.silent()
        assert not difference([number for ledger in ledgers for number in ledger.data], range(harness.load))

    @needs(RELIABLE_QUEUES)
    async def test_a_drain_under_load_lets_handlers_end_and_leaves_the_rest(self, harness: Harness) -> None:
        name, begun, handled = harness.name("orders"), list[int](), list[int]()

        def busy() -> Bus:
            bus = harness.bus()

            @bus.consumer(name, concurrency=20)
            @again_at_once
            async def handle(number: int) -> None:
                begun.append(number)
                await harness.sleep(0.05)
                handled.append(number)

            return bus

        first = busy()
        count = harness.load // 4
        async with harness.running(first):
            await first.producer(name).send_many(range(count))
            await harness.until(lambda: len(handled) >= 50, "some are handled")
        assert first.drained_cleanly
        assert sorted(begun) == sorted(handled), "what had begun was let end"
        assert len(handled) < count, "and nothing new was begun"
        async with harness.running(busy()):
            await harness.until(lambda: len(handled) >= count, "the rest is handled")
            await harness.silent()
        assert not difference(handled, range(count))

    @needs(RELIABLE_QUEUES)
    async def test_a_handler_that_does_not_end_is_cancelled_and_its_message_given_back(self, harness: Harness) -> None:
        name, attempts = harness.name("orders"), list[int]()
        stuck = harness.bus(grace=0.5)

        @stuck.consumer(name)
        @again_at_once
        async def hang(message: Message[int]) -> None:
            attempts.append(message.attempt)
            await asyncio.Event().wait()

        async with harness.running(stuck):
            await stuck.producer(name).send(1)
            await harness.until(lambda: bool(attempts), "the handler runs")
        assert not stuck.drained_cleanly
        bus, ledger = harness.bus(), Ledger(harness)
        ledger.consume(bus, name)
        async with harness.running(bus):
            await ledger.has([1])
        assert ledger.messages[0].attempt == 1, "a shutdown is no failure"

    async def test_many_queues_at_once_do_not_mix(self, harness: Harness) -> None:
        bus, ledgers = harness.bus(), {harness.name(f"q{n}"): Ledger(harness) for n in range(harness.many)}
        for name, ledger in ledgers.items():
            ledger.consume(bus, name, concurrency=1)
        async with harness.running(bus):
            await asyncio.gather(*[bus.producer(name).send(f"{name}:{n}") for name in ledgers for n in range(5)])
            await harness.until(
                lambda: sum(len(ledger.messages) for ledger in ledgers.values()) >= 5 * len(ledgers), "all are handled"
            )
            await harness.silent()
        for name, ledger in ledgers.items():
            ledger.is_exactly([f"{name}:{n}" for n in range(5)])


async def _nothing_works(harness: Harness, bus: Bus) -> None:
    with pytest.raises(NotOpen):
        await bus.producer(harness.name("orders")).send(1)
    with pytest.raises(NotOpen):
        await bus.producer(harness.name("orders")).send_many([1])
    with pytest.raises(NotOpen):
        await bus.publisher(harness.name("created")).publish(1)
    with pytest.raises(NotOpen):
        await bus.depth(harness.name("orders"))
    with pytest.raises(NotOpen):
        await bus.pull(queue=harness.name("orders")).__aenter__()
    with pytest.raises(NotOpen):
        _ = bus.driver
    assert not bus.health().ready


def _noting(harness: Harness, name: str, handled: list[int], **options: Any) -> Bus:
    bus = harness.bus()

    @bus.consumer(name, guarantee=harness.queue_guarantee, **options)
    @again_at_once
    async def handle(number: int) -> None:
        handled.append(number)
        await asyncio.sleep(0)

    return bus


async def _release(harness: Harness, hold: Hold) -> None:
    """Well within the grace period."""
    await harness.sleep(0.5)
    hold.release()


async def _send_all(buses: list[Bus], name: str, count: int) -> None:
    shares = [range(start, count, len(buses)) for start in range(len(buses))]
    sends = [bus.producer(name).send(number) for bus, share in zip(buses, shares, strict=True) for number in share]
    await asyncio.gather(*sends)

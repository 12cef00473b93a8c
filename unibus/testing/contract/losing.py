"""What is taken away, killed or cut off: nothing is lost, and what is no longer ours is settled by nobody."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from unibus.driver import Blocked, Disconnected, Gap, Outcome, Reconnected, Recreated, Revoking, Unblocked
from unibus.errors import ConnectionLost, SettlementLost
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.retry import retry
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, again_at_once, difference, reaches
from unibus.testing.contract.needs import HOLD, LEASE, LOSE, RELIABLE_QUEUES, RESTART, needs
from unibus.testing.faults import Faults, raising, raising_after
from unibus.testing.harness import Harness


@needs(RELIABLE_QUEUES)
class Losing(Cases):
    async def test_a_handler_whose_message_is_lost_is_cancelled_and_settles_nothing(self, harness: Harness) -> None:
        faults, name, ended = Faults(), harness.name("orders"), list[str]()
        bus, running = harness.bus(faults=faults), list[int]()

        @bus.consumer(name, concurrency=3, prefetch=20)
        @retry(on=Exception, attempts=5, backoff=constant(0))
        async def handle(message: Message[int]) -> None:
            running.append(message.data)
            try:
                if len(running) <= 3:
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append(f"cancelled in attempt {message.attempt}")
                raise

        async with harness.running(bus):
            await bus.producer(name).send_many(range(10))
            await harness.until(lambda: len(running) >= 3 and len(faults.held) == 10, "three are in hand, seven wait")
            lost = set(faults.lose())
            await harness.until(lambda: len(ended) >= 3, "the handlers are cancelled")
            await bus.producer(name).send_many(range(10, 20))
            await harness.until(lambda: len(running) >= 13, "it goes on with others")
            await harness.until(lambda: not faults.held, "and settles those")
            settled = {delivery for call in faults.of("settle") for delivery in call.items}
            assert not settled & lost, "settled what was lost"
            assert bus.stats()[name].lost == 10
            assert bus.stats()[name].lane_restarts == 0
        assert ended == ["cancelled in attempt 1"] * 3
        second, ledger = harness.bus(), Ledger(harness)
        ledger.consume(second, name)
        async with harness.running(second):
            await harness.until(lambda: set(range(10)) <= set(ledger.data), "what was lost is handled by another")
        assert set(ledger.data) <= set(range(20))  # a log hands out again what came after a hole

    @needs(LOSE)
    async def test_what_the_broker_takes_away_is_handled_again(self, harness: Harness) -> None:
        bus, name, runs, cancelled = harness.bus(), harness.name("orders"), Counter[int](), list[int]()

        @bus.consumer(name, concurrency=4)
        @again_at_once
        async def handle(message: Message[int]) -> None:
            runs[message.data] += 1
            assert message.attempt == 1
            if not cancelled and len(runs) <= 4:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    cancelled.append(message.data)
                    raise

        async with harness.running(bus):
            await bus.producer(name).send_many(range(30))
            await harness.until(lambda: len(runs) >= 4, "four are in hand")
            await harness.lose(bus)
            await harness.until(lambda: len(runs) >= 30, "all are handled")
            await harness.silent()
        assert len(cancelled) == 4
        assert {number for number, count in runs.items() if count > 1} >= set(cancelled)

    async def test_what_will_be_taken_is_finished_if_it_runs_and_given_back_if_not(self, harness: Harness) -> None:
        faults, name, running, go_on = Faults(), harness.name("orders"), list[int](), asyncio.Event()
        bus = harness.bus(faults=faults)

        @bus.consumer(name, concurrency=2, prefetch=20)
        @again_at_once
        async def handle(number: int) -> None:
            running.append(number)
            await go_on.wait()

        async with harness.running(bus):
            await bus.producer(name).send_many(range(10))
            await harness.until(lambda: len(running) >= 2 and len(faults.held) == 10, "two run and eight wait")
            revoked = list(faults.held)
            faults.emit(Revoking(revoked, harness.now() + 5))
            await harness.until(lambda: bool(faults.of("settle")), "what has not begun goes back")
            given_back = [d for call in faults.of("settle") if call.outcome is Outcome.NACK for d in call.items]
            assert {d.message_id for d in given_back} <= {d.message_id for d in revoked}
            assert len(given_back) == 8
            go_on.set()
            await harness.until(lambda: len(running) >= 10, "the rest comes again")
            await harness.until(lambda: not faults.held, "all is settled")
        assert not difference(running, range(10))

    @needs(LEASE)
    async def test_a_handler_of_three_leases_keeps_its_message(self, harness: Harness) -> None:
        lease = harness.capabilities.lease
        assert lease is not None
        if 3 * lease > harness.longest_wait:
            pytest.skip(f"needs a lease below {harness.longest_wait / 3:g} s")
        name, begun, handled, ledger = harness.name("orders"), list[int](), list[int](), Ledger(harness)
        bus, beside = harness.bus(), harness.bus()
        ledger.consume(beside, name, prefetch=1)

        @bus.consumer(name, concurrency=2, prefetch=10)
        @again_at_once
        async def handle(number: int) -> None:
            begun.append(number)
            await harness.sleep(3 * lease)
            handled.append(number)

        async with harness.running(bus):
            await bus.producer(name).send_many(range(4))
            await harness.until(lambda: len(begun) >= 2, "two are in hand, before another looks for what is not")
            async with harness.running(beside):
                await harness.until(lambda: len(handled) + len(ledger.data) >= 4, "all are handled", within=100 * lease)
                await harness.silent()
            assert bus.stats()[name].lost == 0
        assert not difference(handled + ledger.data, range(4)), "running, buffered and waiting ones are renewed"
        assert len(handled) >= 2

    @needs(HOLD)
    async def test_what_cannot_be_begun_in_time_goes_to_another(self, harness: Harness) -> None:
        hold = harness.capabilities.hold
        assert hold is not None
        if 10 * hold > harness.longest_wait:
            pytest.skip(f"needs a hold below {harness.longest_wait / 10:g} s")
        name, begun, handled, ledger = harness.name("orders"), list[int](), list[int](), Ledger(harness)
        slow, beside = harness.bus(), harness.bus()
        ledger.consume(beside, name)

        @slow.consumer(name, concurrency=1, prefetch=10)
        @again_at_once
        async def handle(number: int) -> None:
            begun.append(number)
            await harness.sleep(0.9 * hold)
            handled.append(number)

        async with harness.running(slow):
            await slow.producer(name).send_many(range(10))
            await harness.until(reaches(begun, 1), "one is in hand, and nine wait")
            await harness.silent()
            async with harness.running(beside):
                await harness.until(lambda: len(handled + ledger.data) >= 10, "all are handled", within=20 * hold)
            assert slow.stats()[name].lost == 0, "held until the broker took it away"
            assert slow.stats()[name].given_back > 0
        assert not difference(handled + ledger.data, range(10))
        assert len(ledger.data) > len(handled)

    @needs(LEASE)
    async def test_a_lease_that_cannot_be_renewed_is_lost_and_not_settled(self, harness: Harness) -> None:
        lease = harness.capabilities.lease
        assert lease is not None
        if 2 * lease > harness.longest_wait:
            pytest.skip(f"needs a lease below {harness.longest_wait / 2:g} s")
        faults, name, cancelled, ledger = Faults(), harness.name("orders"), list[int](), Ledger(harness)
        bus, second = harness.bus(faults=faults), harness.bus()
        ledger.consume(second, name)
        faults.add("extend", raising(ConnectionLost), times=None)

        @bus.consumer(name, concurrency=1, prefetch=1)
        @again_at_once
        async def hang(message: Message[int]) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(message.data)
                raise

        async with harness.running(bus):
            await bus.producer(name).send(1)
            await harness.until(lambda: bool(faults.held), "it is in hand")
            await harness.until(lambda: bool(cancelled), "its handler is cancelled", within=3 * lease)
            assert not faults.of("settle")
            assert bus.stats()[name].lost == 1
            await harness.abandon(bus)
        async with harness.running(second):
            await ledger.has([1])

    async def test_a_consumer_survives_a_connection_that_comes_and_goes(self, harness: Harness) -> None:
        faults, name, ledger = Faults(), harness.name("orders"), Ledger(harness)
        bus = harness.bus(faults=faults)
        ledger.consume(bus, name, prefetch=10)
        faults.add("receive", raising(ConnectionLost), skip=1, times=3)
        faults.add("settle", raising(ConnectionLost), skip=1, times=2)
        faults.add("settle", raising_after(ConnectionLost), skip=2, times=2)
        async with harness.running(bus):
            for number in range(100):
                await bus.producer(name).send(number)
            await ledger.has(range(100), twice=True)
            await harness.until(lambda: not faults.held, "all is settled")

    async def test_a_driver_that_fails_in_no_known_way_does_not_end_the_consumer(self, harness: Harness) -> None:
        faults, name, ledger = Faults(), harness.name("orders"), Ledger(harness)
        bus = harness.bus(faults=faults)
        ledger.consume(bus, name, prefetch=10)
        faults.add("receive", raising(lambda: KeyError("a bug of an adapter")), skip=1, times=2)
        faults.add("settle", raising_after(lambda: KeyError("a bug of an adapter")), skip=1, times=2)
        async with harness.running(bus):
            for number in range(50):
                await bus.producer(name).send(number)
            await ledger.has(range(50), twice=True)

    async def test_a_stale_settlement_is_counted_and_harms_nothing(self, harness: Harness) -> None:
        faults, name, ledger = Faults(), harness.name("orders"), Ledger(harness)
        bus = harness.bus(faults=faults)
        ledger.consume(bus, name, concurrency=1, prefetch=1)
        faults.add("settle", raising_after(lambda: SettlementLost("stale", count=1)))
        async with harness.running(bus):
            await bus.producer(name).send_many(range(5))
            await ledger.has(range(5))
            assert bus.stats()[name].settlements_lost == 1

    async def test_health_follows_the_events_of_the_driver(self, harness: Harness) -> None:
        faults, name, ledger = Faults(), harness.name("orders"), Ledger(harness)
        bus = harness.bus(faults=faults)
        ledger.consume(bus, name)
        async with harness.running(bus):
            await harness.until(lambda: bus.health().ready, "well")
            for bad, good in ((Disconnected("cut"), Reconnected()), (Blocked("full"), Unblocked())):
                faults.emit(bad)
                assert not bus.health().ready
                assert bus.health().live
                faults.emit(good)
                assert bus.health().ready
            faults.emit(Gap(3))
            faults.emit(Recreated())
            assert bus.stats()[name].gaps == 2
            await bus.producer(name).send(1)
            await ledger.has([1])

    @needs(RESTART)
    async def test_a_restarted_broker_loses_nothing_that_it_confirmed(self, harness: Harness) -> None:
        name, ledger, confirmed = harness.name("orders"), Ledger(harness), list[int]()
        bus, sender = harness.bus(), harness.bus()
        ledger.consume(bus, name)
        count = harness.load

        async def send(numbers: range) -> None:
            for number in numbers:
                outcome: Any = (await asyncio.gather(sender.producer(name).send(number), return_exceptions=True))[0]
                if isinstance(outcome, str):
                    confirmed.append(number)

        async with harness.running(bus, sender):
            sending = [asyncio.ensure_future(send(range(start, count, 20))) for start in range(20)]
            for part in (count // 3, count // 2):
                await harness.until(reaches(ledger.messages, part), "some are handled")
                await harness.restart()
            await harness.gather(*sending)
            await sender.producer(name).send(count)
            confirmed.append(count)
            await harness.until(lambda: set(confirmed) <= set(ledger.data), "all that was confirmed is handled")
        assert set(ledger.data) <= set(range(count + 1))

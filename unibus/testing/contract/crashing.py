"""Killed processes: nothing is lost, and a message that kills is found out without convicting another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from unibus import attributes as names
from unibus.bus import Bus
from unibus.dead_letters import DeadLetter
from unibus.driver import Outbound, Queue
from unibus.message import Message
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, again_at_once, difference, drained, reaches
from unibus.testing.contract.needs import DELIVERY_COUNT, RELIABLE_QUEUES, needs
from unibus.testing.faults import Faults
from unibus.testing.harness import Harness


def holding_all(faults: Faults, count: int) -> Callable[[], bool]:
    return lambda: len(faults.held) == count


@needs(RELIABLE_QUEUES)
class Crashing(Cases):
    async def test_what_a_killed_process_had_in_hand_is_handled_by_another(self, harness: Harness) -> None:
        name, begun, handled, ledger = harness.name("orders"), list[int](), list[int](), Ledger(harness)
        first, second = harness.bus(), harness.bus()
        ledger.consume(second, name)

        @first.consumer(name, concurrency=5, prefetch=50)
        @again_at_once
        async def handle(number: int) -> None:
            begun.append(number)
            if len(handled) >= 20:
                await asyncio.Event().wait()
            handled.append(number)

        async with harness.running(first):
            await first.producer(name).send_many(range(100))
            await harness.until(lambda: len(begun) >= 25, "five are in hand")
            await harness.silent()
            await harness.abandon(first)
        async with harness.running(second):
            rest = set(range(100)) - set(handled)
            await harness.until(lambda: rest <= set(ledger.data), "the rest is handled")
            await harness.silent()
        assert not difference(handled + ledger.data, range(100), twice=True)
        assert all(message.attempt == 1 for message in ledger.messages), "a kill is no failed attempt"

    async def test_killed_ten_times_no_message_is_lost(self, harness: Harness) -> None:
        name, handled = harness.name("orders"), list[int]()

        def consumer(stop_at: int) -> Bus:
            bus = harness.bus()

            @bus.consumer(name, concurrency=5, prefetch=30)
            @again_at_once
            async def handle(number: int) -> None:
                await asyncio.sleep(0)
                if len(handled) >= stop_at:
                    await asyncio.Event().wait()
                handled.append(number)

            return bus

        sender = consumer(0)
        async with harness.connected(sender):
            await sender.producer(name).send_many(range(500))
        for turn in range(1, 11):
            bus = consumer(20 * turn)
            async with harness.running(bus):
                await harness.until(reaches(handled, 20 * turn), "some are handled")
                await harness.abandon(bus)
        async with harness.running(consumer(10**6)):
            await harness.until(lambda: set(handled) >= set(range(500)), "all are handled")
        assert not difference(handled, range(500), twice=True)

    @needs(DELIVERY_COUNT)
    async def test_one_crashing_message_among_two_hundred_convicts_no_other(self, harness: Harness) -> None:
        name, handled, kills = harness.name("orders"), list[int](), list[int]()
        dead = asyncio.Event()

        def consumer() -> Bus:
            bus = harness.bus()

            @bus.consumer(name, concurrency=10, prefetch=200)
            @again_at_once
            async def handle(number: int) -> None:
                if number == 100:
                    kills.append(number)
                    await harness.abandon(bus)
                    dead.set()
                    await asyncio.Event().wait()
                handled.append(number)

            return bus

        sender = consumer()
        async with harness.connected(sender):
            await sender.producer(name).send_many(range(200))

        async def survives(bus: Bus) -> bool:
            """Whether it gets all done; else it was killed."""
            dead.clear()
            async with harness.running(bus):
                await harness.until(
                    lambda: dead.is_set() or (len(set(handled)) >= 199 and bus.stats()[name].dead_lettered == 1),
                    "it dies again, or all is done",
                )
                return not dead.is_set()

        for _ in range(20):
            if await survives(consumer()):
                break
        else:
            pytest.fail("the crashing message was never taken out")
        assert not difference(handled, set(range(200)) - {100}, twice=True)
        assert len(kills) <= 4 + 3, "a suspect has at most its kills beside others and three alone"
        (letter,) = await drained(harness, name + ".dlq", 1)
        assert letter.body == b"100"
        record = DeadLetter.from_attributes(letter.attributes)
        assert record is not None
        assert record.error_type.endswith("Crashed")

    @needs(DELIVERY_COUNT)
    async def test_a_suspect_is_handled_with_nothing_beside_it(self, harness: Harness) -> None:
        name, faults, runs = harness.name("orders"), Faults(), list[tuple[int, int]]()
        for turn in range(2):  # held by two processes that were killed: their third delivery makes suspects
            holding = Faults()
            bus = harness.bus(faults=holding)

            @bus.consumer(name, concurrency=5, prefetch=20)
            @again_at_once
            async def hang(number: int) -> None:
                await asyncio.Event().wait()

            async with harness.running(bus):
                if turn == 0:
                    await bus.producer(name).send_many(range(6))
                await harness.until(holding_all(holding, 6), "all are in hand")
                await harness.abandon(bus)
        bus, running = harness.bus(faults=faults), set[int]()

        @bus.consumer(name, concurrency=5, prefetch=20)
        @again_at_once
        async def handle(message: Message[int]) -> None:
            running.add(message.data)
            for _ in range(20):
                await asyncio.sleep(0)
            runs.append((message.data, len(running | {int(d.body or b"") for d in faults.held})))
            running.discard(message.data)

        async with harness.running(bus):
            await harness.until(lambda: len(runs) >= 6, "all are handled")
            await harness.silent()
        assert not difference([number for number, _ in runs], range(6))
        assert all(beside == 1 for _, beside in runs), f"handled beside others: {runs}"
        await drained(harness, name + ".dlq", 0)

    @needs(DELIVERY_COUNT)
    async def test_a_marked_message_waits_for_what_runs_and_others_wait_for_it(self, harness: Harness) -> None:
        bus, name, running, ended = harness.bus(), harness.name("orders"), set[str](), list[str]()
        go_on = {"plain": asyncio.Event(), "marked": asyncio.Event(), "later": asyncio.Event()}
        go_on["later"].set()

        @bus.consumer(name, concurrency=5, prefetch=20)
        @again_at_once
        async def handle(message: Message[str]) -> None:
            running.add(message.id)
            await go_on[message.data].wait()
            running.discard(message.id)
            ended.append(message.id)

        async with harness.running(bus):
            for id_ in ("1", "2", "3"):
                await bus.producer(name).send("plain", id=id_)
            await harness.until(lambda: running == {"1", "2", "3"}, "three run")
            await bus.driver.send(Queue(name), [Outbound(b'"marked"', {names.ALONE: "1"}, {}, None, "marked")])
            await harness.silent()
            assert running == {"1", "2", "3"}, "it waits for what runs"
            go_on["plain"].set()
            await harness.until(lambda: running == {"marked"}, "it runs alone")
            await bus.producer(name).send("later", id="later")
            await harness.silent()
            assert running == {"marked"}, "others wait for it"
            assert len(ended) == 3
            go_on["marked"].set()
            await harness.until(lambda: len(ended) >= 5, "all are handled")
        assert set(ended) == {"1", "2", "3", "marked", "later"}

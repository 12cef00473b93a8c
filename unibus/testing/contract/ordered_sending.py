"""Sending in order: errors name the holes, and nothing overtakes what failed."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

from unibus.driver import Capabilities, Limits, Queue
from unibus.errors import NotSent, OutcomeUnknown, Rejected
from unibus.message import Message
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.keys import Unreliable, assert_told_truly, key_of, ordered_queue
from unibus.testing.contract.ledger import Ledger, drained
from unibus.testing.contract.needs import (
    ORDERED_QUEUES,
    RELIABLE_QUEUES,
    needs,
)
from unibus.testing.faults import Call, Faults, Hold, Proceed, rejecting
from unibus.testing.harness import Harness


@needs(ORDERED_QUEUES, RELIABLE_QUEUES)
class OrderedSending(Cases):
    async def test_five_hundred_gathered_sends_with_failing_batches_keep_the_order(self, harness: Harness) -> None:
        def small_batches(capabilities: Capabilities) -> Capabilities:
            return replace(
                capabilities, send=Limits(messages=min(9, capabilities.send.messages), calls=3, min_messages=1)
            )

        faults = Faults(narrow=small_batches)
        faults.add("send", Unreliable(random.Random(11)), times=None)
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
        assert_told_truly(outcomes, stored)
        kinds = {type(outcome) for outcome in outcomes.values()}
        assert kinds >= {str, Rejected, NotSent, OutcomeUnknown}, "each kind of outcome came about"

    async def test_send_many_with_failing_batches_keeps_the_order(self, harness: Harness) -> None:
        faults, queue = Faults(narrow=lambda c: replace(c, send=Limits(messages=8, calls=4))), ordered_queue(harness)
        faults.add("send", Unreliable(random.Random(13)), times=None)
        bus = harness.bus(faults=faults)
        await _made(harness, queue)
        outcomes: dict[int, object] = dict.fromkeys(range(500), "confirmed")
        async with harness.connected(bus):
            failed = (await harness.gather(bus.producer(queue).send_many(range(500), key=key_of)))[0]
        outcomes |= failed.errors
        stored = [int(message.data) for message in await _all_of(harness, queue)]
        assert_told_truly(outcomes, stored)

    async def test_after_a_failure_the_queued_ones_of_its_key_do_not_leave(self, harness: Harness) -> None:
        faults, hold, queue = (
            Faults(narrow=lambda c: replace(c, send=Limits(messages=1, calls=8))),
            Hold(),
            ordered_queue(harness),
        )
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
        seen = 0
        while seen < len(ledger.messages):  # a slow broker takes longer than one silence
            seen = len(ledger.messages)
            await harness.silent()
    return ledger.messages

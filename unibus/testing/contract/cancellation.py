"""Cancellation, wherever it strikes: nothing is lost, nothing hangs, nobody else suffers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from unibus.driver import Delivery, DriverEvent, Outcome, Queue, Topology
from unibus.errors import OutcomeUnknown
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.retry import retry
from unibus.options import Handler
from unibus.testing.cancelling import cancelled_at
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.driving import outs, put, settle, take
from unibus.testing.contract.ledger import Ledger, difference, drained
from unibus.testing.contract.needs import GROUPS, ORDERED_QUEUES, RELIABLE_QUEUES, needs
from unibus.testing.faults import Faults, Hold, raising, raising_after
from unibus.testing.harness import Harness

MOST_SUSPENSIONS = 200
"""More than any call has; a call that is cancelled at each of them never ends."""


@needs(RELIABLE_QUEUES)
class Cancellation(Cases):
    async def test_a_send_cancelled_anywhere_harms_no_other(self, harness: Harness) -> None:
        name = harness.name("orders")
        await _cancel_sends(harness, Queue(name), lambda producer, number: producer.send(number))

    @needs(ORDERED_QUEUES)
    async def test_an_ordered_send_cancelled_anywhere_harms_no_other(self, harness: Harness) -> None:
        queue = Queue(harness.name("ordered"), ordering="key")
        await _cancel_sends(harness, queue, lambda producer, number: producer.send(number, key="k"))

    async def test_send_many_cancelled_anywhere_harms_no_other(self, harness: Harness) -> None:
        name = harness.name("orders")
        await _cancel_sends(harness, Queue(name), lambda producer, number: producer.send_many(fifty(number)), fifty)

    @needs(GROUPS)
    async def test_a_publish_cancelled_anywhere_harms_no_other(self, harness: Harness) -> None:
        topic, ledger, bus = harness.name("news"), Ledger(harness), harness.bus()
        ledger.subscribe(bus, topic, group=harness.name("group"))
        confirmed, perhaps = list[int](), list[int]()
        async with harness.running(bus):
            for k in range(1, MOST_SUSPENSIONS):
                beside = asyncio.ensure_future(bus.publisher(topic).publish(-k))
                cancelled, _ = await harness.passing(cancelled_at(k, bus.publisher(topic).publish(k)))
                await harness.passing(beside)
                confirmed.append(-k)
                (perhaps if cancelled else confirmed).append(k)
                if not cancelled:
                    break
            await harness.until(lambda: set(confirmed) <= set(ledger.data), "what was confirmed is handled")
            await harness.silent()
        assert not difference(ledger.data, set(confirmed) | (set(perhaps) & set(ledger.data)))

    async def test_a_sender_that_is_cancelled_before_its_message_left_unsends_it(self, harness: Harness) -> None:
        faults, hold, name = Faults(), Hold(), harness.name("orders")
        bus, maker, ledger = harness.bus(faults=faults), harness.bus(), Ledger(harness)
        ledger.consume(maker, name)
        async with harness.running(maker), harness.connected(bus):
            producer = bus.producer(name)
            await producer.send(0)
            faults.add("send", hold)
            first = asyncio.ensure_future(producer.send(1))
            await harness.passing(hold.reached.wait())
            queued = asyncio.ensure_future(producer.send(2))
            after = asyncio.ensure_future(producer.send(3))
            await asyncio.sleep(0)
            queued.cancel()
            hold.release()
            await harness.gather(first, after)
            await harness.until(lambda: set(ledger.data) >= {0, 1, 3}, "the others arrive")
            await harness.silent()
        assert queued.cancelled()
        assert set(ledger.data) - {2} == {0, 1, 3}

    @pytest.mark.parametrize("stored", [True, False])
    async def test_a_send_that_the_client_library_cancels_is_an_unknown_outcome(
        self, harness: Harness, stored: bool
    ) -> None:
        faults, name = Faults(), harness.name("orders")
        bus, maker, ledger = harness.bus(faults=faults), harness.bus(), Ledger(harness)
        ledger.consume(maker, name)
        faults.add("send", (raising_after if stored else raising)(asyncio.CancelledError))
        async with harness.running(maker), harness.connected(bus):
            with pytest.raises(OutcomeUnknown):
                await bus.producer(name).send(1)
            await bus.producer(name).send(2)
            await ledger.has([1, 2] if stored else [2])

    async def test_a_receive_that_the_client_library_cancels_does_not_end_the_consumer(self, harness: Harness) -> None:
        faults, name, ledger = Faults(), harness.name("orders"), Ledger(harness)
        bus = harness.bus(faults=faults)
        ledger.consume(bus, name)
        faults.add("receive", raising(asyncio.CancelledError), times=2)
        async with harness.running(bus):
            await bus.producer(name).send_many(range(10))
            await ledger.has(range(10))

    async def test_a_settlement_that_the_client_library_cancels_does_not_end_the_consumer(
        self, harness: Harness
    ) -> None:
        faults, name, ledger = Faults(), harness.name("orders"), Ledger(harness)
        bus = harness.bus(faults=faults)
        ledger.consume(bus, name, prefetch=10)
        faults.add("settle", raising_after(asyncio.CancelledError), times=3)
        async with harness.running(bus):
            for number in range(100):
                await bus.producer(name).send(number)
            await ledger.has(range(100), twice=True)

    async def test_a_receive_cancelled_anywhere_loses_nothing(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            await driver.declare(Topology(create=(queue,)))
            subscription = await driver.subscribe(queue, prefetch=1000, notify=_ignore)
            await put(driver, queue, outs(*range(60)))
            got: list[Delivery] = []
            for k in range(1, MOST_SUSPENSIONS):
                _, batch = await harness.passing(cancelled_at(k, subscription.receive(3, 1.0)))
                got += batch or ()
                if len(got) >= 60:
                    break
            got += await take(harness, subscription, 60 - len(got))
            # While nothing is there, a message comes as the wait is cancelled.
            for k in range(1, 10):
                waiting = asyncio.ensure_future(cancelled_at(k, subscription.receive(3, 1.0)))
                await driver.send(queue, outs(100 + k))
                got += (await harness.passing(waiting))[1] or ()
            got += await take(harness, subscription, 69 - len(got))
            await settle(driver, subscription, got, Outcome.ACK)
            assert not await harness.passing(subscription.receive(10, harness.silence)), "more than was sent"
            await subscription.close()
        assert not difference(
            [delivery.message_id for delivery in got], [*map(str, range(60)), *map(str, range(101, 110))]
        )

    @pytest.mark.parametrize("outcome", list(Outcome))
    async def test_a_settle_cancelled_anywhere_loses_nothing(self, harness: Harness, outcome: Outcome) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            await driver.declare(Topology(create=(queue,)))
            subscription = await driver.subscribe(queue, prefetch=1000, notify=_ignore)
            await put(driver, queue, outs(*range(20)))
            got = await take(harness, subscription, 20)
            settled, unknown, holes = set(), set(), 0
            for k, delivery in enumerate(got[:10], 1):
                cancelled, _ = await harness.passing(cancelled_at(k, subscription.settle([delivery], outcome)))
                if cancelled or outcome is Outcome.NACK:
                    holes += 1
                    if cancelled and outcome is not Outcome.NACK:
                        unknown.add(delivery.message_id)  # the broker may have heard of it
                else:
                    settled.add(delivery.message_id)
            await subscription.settle(got[10:15], Outcome.ACK)
            settled |= {delivery.message_id for delivery in got[10:15]}
            await subscription.close()
            left = [message.id for message in await _left(harness, queue)]
        # After a hole a log hands out again what was settled.
        assert holes or not settled & set(left), "settled and delivered again"
        assert {delivery.message_id for delivery in got[15:]} <= set(left)
        assert not difference({*left, *settled, *unknown}, {str(number) for number in range(20)})

    @pytest.mark.parametrize("how", ["a-cancelled-future", "raised", "its-own-task"])
    async def test_a_handler_that_ends_cancelled_fails_and_the_consumer_lives(self, harness: Harness, how: str) -> None:
        bus, name, ledger, concurrency = harness.bus(), harness.name("orders"), Ledger(harness), 3
        failed = list[int]()

        @bus.consumer(name, concurrency=concurrency)
        @retry(on=Exception, attempts=2, backoff=constant(0))
        async def handle(message: Message[int]) -> None:
            if message.data <= concurrency:
                failed.append(message.data)
                await _end_cancelled(how)
            ledger.add(message)

        async with harness.running(bus):
            await bus.producer(name).send_many(range(20))
            await ledger.has(range(concurrency + 1, 20))
            await harness.until(
                lambda: bus.stats()[name].dead_lettered == concurrency + 1, "the others are dead letters"
            )
        assert sorted(failed) == sorted([*range(concurrency + 1)] * 2), "each was tried twice"
        letters = await drained(harness, name + ".dlq", concurrency + 1)
        assert {int(letter.data) for letter in letters} == set(range(concurrency + 1))
        assert all("HandlerCancelled" in letter.attributes["unibusdlerrortype"] for letter in letters)

    async def test_a_middleware_that_ends_cancelled_fails_the_message(self, harness: Harness) -> None:
        def cancelled(inner: Handler) -> Handler:
            async def wrapped(message: Message[Any]) -> object:
                if message.data == 1:
                    raise asyncio.CancelledError
                return await inner(message)

            return wrapped

        bus, name, ledger = harness.bus(middleware=[cancelled]), harness.name("orders"), Ledger(harness)
        ledger.consume(bus, name, concurrency=1)
        async with harness.running(bus):
            await bus.producer(name).send_many(range(5))
            await ledger.has([0, 2, 3, 4])
            await harness.until(lambda: bus.stats()[name].dead_lettered == 1, "the cancelled one is a dead letter")


async def _end_cancelled(how: str) -> None:
    if how == "raised":
        raise asyncio.CancelledError
    if how == "its-own-task":
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def _cancel_sends(
    harness: Harness,
    queue: Queue,
    send: Callable[[Any, int], Coroutine[Any, Any, object]],
    sent: Callable[[int], list[int]] = lambda number: [number],
) -> None:
    """Cancel a first send of a new bus, and one of a warm one, at every suspension, beside sends that go through."""
    maker, confirmed, perhaps = harness.bus(), list[int](), list[int]()
    Ledger(harness).consume(maker, queue)
    async with harness.connected(maker):
        for warm in (False, True):
            for k in range(1, MOST_SUSPENSIONS):
                number = 1000 * (1 + warm) + k
                bus = maker if warm else harness.bus()
                async with harness.connected(*([] if warm else [bus])):
                    producer = bus.producer(queue)
                    beside = asyncio.ensure_future(producer.send(-number, key="k"))
                    cancelled, _ = await harness.passing(cancelled_at(k, send(producer, number)))
                    await harness.passing(beside)
                confirmed.append(-number)
                (perhaps if cancelled else confirmed).extend(sent(number))
                if not cancelled:
                    break
    stored = [int(message.data) for message in await _left(harness, queue)]
    assert not set(confirmed) - set(stored), f"confirmed and lost: {sorted(set(confirmed) - set(stored))[:10]}"
    assert set(stored) <= set(confirmed) | set(perhaps)
    assert len(stored) == len(set(stored)), "stored twice"


def fifty(number: int) -> list[int]:
    return [number * 100 + n for n in range(50)]


async def _left(harness: Harness, queue: Queue) -> list[Message[int]]:
    """All that is in the queue, once nothing more comes."""
    bus, ledger = harness.bus(), Ledger(harness)
    ledger.consume(bus, queue)
    async with harness.running(bus):
        await harness.silent()
        seen = -1
        while len(ledger.messages) > seen:
            seen = len(ledger.messages)
            await harness.silent()
    return ledger.messages


def _ignore(event: DriverEvent) -> None: ...

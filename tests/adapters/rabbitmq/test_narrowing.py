"""What the broker counts is what was in hand, however often the bound on that changes; and how a connection ends."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

import pytest

from tests.adapters.rabbitmq.conftest import opened
from tests.adapters.rabbitmq.test_driver import out, take
from tests.adapters.rabbitmq.test_recovery import Events, until
from tests.brokers import Broker
from unibus.driver import Outcome, Queue, Topology
from unibus.errors import BatchError, NotSent, OutcomeUnknown
from unibus_rabbitmq.subscription import RabbitSubscription

MANY = 1000


async def test_changing_the_bound_counts_no_deliveries_that_nobody_had(
    server: Broker, name: Callable[[str], str]
) -> None:
    """Of a consumer that ends while the broker pushes to it, a quorum queue takes back unseen what is on its way."""
    queue, counts, handled = Queue(name("orders")), Counter[int | None](), set[str]()
    async with opened(server.url + "?queue_type=quorum") as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(str(number)) for number in range(MANY)])

        async def consume(subscription: RabbitSubscription) -> None:
            narrow = False
            while len(handled) < MANY:
                batch = await subscription.receive(16, 0.1)
                counts.update(delivery.deliveries for delivery in batch)
                await asyncio.sleep(0.002)  # as if handled
                await subscription.settle(batch, Outcome.ACK)
                handled.update(delivery.message_id for delivery in batch)
                narrow = not narrow
                await subscription.hold_at_most(1 if narrow else 16)

        async with asyncio.timeout(60):
            subscriptions = [await driver.subscribe(queue, prefetch=16, notify=Events()) for _ in range(4)]
            await asyncio.gather(*map(consume, subscriptions))
        assert counts == {1: MANY}


@pytest.mark.parametrize("outcome", [Outcome.ACK, Outcome.NACK, Outcome.REJECT])
async def test_what_is_settled_out_of_order_while_the_bound_changes_is_settled_as_it_was_said(
    server: Broker, name: Callable[[str], str], outcome: Outcome
) -> None:
    """An ack covers all before it: those that are given back must not be among them."""
    queue, events = Queue(name("orders")), Events()
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(str(number)) for number in range(30)])
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        first = await take(subscription, 10)
        changing = asyncio.ensure_future(subscription.hold_at_most(1))
        assert subscription._channel is not None
        while subscription._channel._withheld is None:
            await asyncio.sleep(0)
        await subscription.settle(first[4:6], Outcome.ACK)
        await subscription.settle(first[:4], outcome)
        assert not changing.done()
        await changing
        await subscription.settle(first[6:], Outcome.ACK)
        await subscription.hold_at_most(30)
        again = {0, 1, 2, 3} if outcome is Outcome.NACK else set[int]()
        rest = await take(subscription, 20 + len(again))
        assert {int(delivery.message_id) for delivery in rest} == again | set(range(10, 30))
        assert not await subscription.receive(1, 0.2)
        assert events == []


async def test_a_consumer_that_we_ended_ourselves_is_not_missed(
    server: Broker, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a shutdown with a handler at work: what that has in hand stays ours."""
    monkeypatch.setattr("unibus_rabbitmq.subscription.LOOK_EVERY", 0.05)
    queue, events = Queue(name("orders")), Events()
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out("1")])
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        held = await take(subscription, 1)
        await subscription.hold_at_most(0)
        for _ in range(5):
            assert not await subscription.receive(1, 0.1)
        await subscription.settle(held, Outcome.ACK)
        assert events == []


async def test_a_connection_that_the_broker_ends_is_an_outcome_and_no_noise(
    newest: Broker, name: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Publishing goes on all the while: neither an error of asyncio's nor a traceback of the library's gets out."""
    if not newest.ours:
        pytest.skip("needs a server whose connections it may close")
    queue, events = Queue(name("orders")), Events()
    async with opened(newest.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.subscribe(queue, prefetch=10, notify=events)
        failures: list[Exception] = []

        async def publish() -> None:
            while "Reconnected" not in events.kinds:
                try:
                    await driver.send(queue, [out("1")])
                except BatchError as failed:
                    failures.extend(failed.errors.values())

        with caplog.at_level(logging.WARNING):
            publishing = asyncio.gather(*[publish() for _ in range(5)])
            await asyncio.to_thread(newest.admin, "rabbitmqctl", "close_all_connections", "a test")
            await until(lambda: "Reconnected" in events.kinds)
            await publishing
        assert failures
        assert all(isinstance(failure, (OutcomeUnknown, NotSent)) for failure in failures), failures
        assert [record for record in caplog.records if record.exc_info] == []


async def test_what_was_acked_just_before_the_end_does_not_come_again(
    server: Broker, name: Callable[[str], str]
) -> None:
    """One by one, since the first is held: of a quorum queue the broker keeps most of such acks back for a while."""
    async with opened(server.url) as driver:
        for turn in range(6):
            queue = Queue(name(f"orders-{turn}"))
            await driver.declare(Topology(create=(queue,)))
            await driver.send(queue, [out(str(number)) for number in range(300)])
            subscription = await driver.subscribe(queue, prefetch=300, notify=Events())
            held = await take(subscription, 300)
            await subscription.settle([one for place, one in enumerate(held) if place % 10], Outcome.ACK)
            await subscription.close()
            again = await driver.subscribe(queue, prefetch=300, notify=Events())
            left = await take(again, 30)
            assert {one.message_id for one in left} == {str(number) for number in range(0, 300, 10)}
            assert not await again.receive(300, 0.2), "acked, and delivered once more"
            await again.close()

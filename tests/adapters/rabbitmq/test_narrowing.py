"""What the broker counts is what was in hand, however often the bound on that changes; and how a connection ends."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

import pytest

from tests.adapters.rabbitmq.conftest import opened
from tests.adapters.rabbitmq.test_driver import out
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

"""A server that is away, or does not answer: what is known of a send is said, and consumers go on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.adapters.sqs.conftest import REGION, Events, ids, opened, out, subscribed, take, until
from tests.brokers import broker
from unibus.driver import Outcome, Queue
from unibus.errors import BatchError, NotSent, OutcomeUnknown
from unibus.testing.proxy import FaultProxy

Name = Callable[[str], str]


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    server = broker("elasticmq")
    async with FaultProxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: FaultProxy) -> str:
    return f"sqs://{REGION}?endpoint={proxy.url(broker('elasticmq').url)}&wait=1&topics=off&timeout=2"


async def test_a_lost_answer_is_unknown_and_the_message_is_stored_once(
    through: str, proxy: FaultProxy, name: Name
) -> None:
    orders = Queue(name("orders"))
    async with opened(through) as driver:
        subscription = await subscribed(driver, orders)
        dropped = proxy.drop_reply(when=lambda chunk: b"MD5OfMessageBody" in chunk)
        with pytest.raises(BatchError) as failed:
            await driver.send(orders, [out("1"), out("2")])
        assert dropped.is_set()
        assert {type(error) for error in failed.value.errors.values()} == {OutcomeUnknown}
        proxy.heal()
        await driver.send(orders, [out("3")])
        got = await take(subscription, 3)
        assert sorted(ids(got)) == ["1", "2", "3"]
        await subscription.settle(got, Outcome.ACK)
        assert not await subscription.receive(1, 1.5)


async def test_a_server_that_is_away_is_waited_for(through: str, proxy: FaultProxy, name: Name) -> None:
    orders, events = Queue(name("orders")), Events()
    async with opened(through) as driver:
        subscription = await subscribed(driver, orders, events=events)
        receiving = asyncio.ensure_future(subscription.receive(1, 60.0))
        await asyncio.sleep(0)
        proxy.cut(refuse=True)
        with pytest.raises(BatchError):  # by a connection that was there: who knows
            await driver.send(orders, [out("1")])
        with pytest.raises(BatchError) as failed:
            await driver.send(orders, [out("1")])
        assert isinstance(failed.value.errors[0], NotSent)
        await until(lambda: events.kinds == ["Disconnected"])
        sending = asyncio.ensure_future(driver.send(orders, [out("2")]))
        await asyncio.sleep(0)
        proxy.heal()
        await sending
        assert ids(await receiving) == ["2"]
        assert events.kinds == ["Disconnected", "Reconnected"]
        await subscription.settle(receiving.result(), Outcome.ACK)


async def test_a_black_hole_is_unknown_within_the_timeout(through: str, proxy: FaultProxy, name: Name) -> None:
    orders = Queue(name("orders"))
    async with opened(through) as driver:
        subscription = await subscribed(driver, orders)
        await driver.send(orders, [out("1")])
        proxy.freeze()
        began = time.monotonic()
        with pytest.raises(BatchError) as failed:
            await driver.send(orders, [out("2")])
        assert isinstance(failed.value.errors[0], OutcomeUnknown | NotSent)
        assert time.monotonic() - began < 5 * 2
        proxy.heal()
        await take(subscription, 1)

"""Polls, leases and what is given back: nothing is stranded, and nothing is held beyond its time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from tests.adapters.sqs.conftest import Events, ids, opened, out, plain, subscribed, take, until
from unibus.driver import LeaseExtender, Lost, Outcome, Queue, Topology
from unibus.errors import SettlementLost, TopologyMismatch
from unibus_sqs import limits
from unibus_sqs import subscription as consuming
from unibus_sqs.names import queue_name

Name = Callable[[str], str]
LONG = "&lease=300"
"""What would be stranded for a lease comes far too late to pass."""


async def test_a_cancelled_receive_strands_nothing(url: str, name: Name) -> None:
    orders = Queue(name("orders"))
    async with opened(url + LONG) as driver:
        subscription = await subscribed(driver, orders)
        for number in range(5):
            receiving = asyncio.ensure_future(subscription.receive(10, 60.0))
            await asyncio.sleep(0)
            sending = asyncio.ensure_future(driver.send(orders, [out(str(number))]))
            await asyncio.sleep(0.01 * number)
            receiving.cancel()
            await asyncio.wait({receiving, sending})
            sending.result()
            got = [] if receiving.cancelled() else list(receiving.result())
            if not got:
                got = await take(subscription, 1)
            assert ids(got) == [str(number)]
            await subscription.settle(got, Outcome.ACK)


async def test_what_the_last_poll_brings_goes_to_another_at_once(url: str, name: Name) -> None:
    orders = Queue(name("orders"))
    async with opened(url + LONG) as driver, opened(url + LONG) as other:
        subscription = await subscribed(driver, orders)
        receiving = asyncio.ensure_future(subscription.receive(10, 60.0))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(subscription.close())  # its poll is in flight
        await driver.send(orders, [out(str(number)) for number in range(3)])
        await closing
        assert not await receiving
        second = await subscribed(other, orders)
        again = await take(second, 3)
        assert set(ids(again)) == {"0", "1", "2"}
        await second.settle(again, Outcome.ACK)


async def test_what_was_in_hand_goes_to_another_at_once_and_in_order(url: str, name: Name) -> None:
    orders = Queue(name("orders"), ordering="key")
    async with opened(url + LONG) as driver, opened(url + LONG) as other:
        subscription = await subscribed(driver, orders)
        await driver.send(orders, [out(str(number), key="k") for number in range(6)])
        await take(subscription, 3)
        await subscription.close()
        second = await subscribed(other, orders)
        got = list[str]()
        while len(got) < 6:
            (delivery,) = await take(second, 1)
            got.append(delivery.message_id)
            await second.settle([delivery], Outcome.ACK)
        assert got == [str(number) for number in range(6)]


async def test_a_lease_is_renewed_and_its_end_is_told(url: str, name: Name) -> None:
    orders, events = Queue(name("orders")), Events()
    async with opened(url + "&lease=3") as driver:
        subscription = await subscribed(driver, orders, events=events)
        assert isinstance(subscription, LeaseExtender)
        await driver.send(orders, [out("kept"), out("lost")])
        held = {delivery.message_id: delivery for delivery in await take(subscription, 2)}
        began = time.monotonic()
        while time.monotonic() - began < 4.5:
            await subscription.extend([held["kept"]], 3.0)
            await asyncio.sleep(0.5)
        assert [delivery for event in events if isinstance(event, Lost) for delivery in event.deliveries] == [
            held["lost"]
        ]
        with pytest.raises(SettlementLost):
            await subscription.settle([held["lost"]], Outcome.ACK)
        (again,) = await take(subscription, 1)
        assert (again.message_id, again.deliveries, again.redelivered) == ("lost", 2, True)
        await subscription.settle([again, held["kept"]], Outcome.ACK)
        assert not await subscription.receive(1, 4.0)


async def test_what_sqs_would_take_away_after_twelve_hours_is_lost_before(
    url: str, name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consuming, "END_OF_HOLD", 2)
    orders, events = Queue(name("orders")), Events()
    async with opened(url + "&lease=12") as driver:
        subscription = await subscribed(driver, orders, events=events)
        assert isinstance(subscription, LeaseExtender)
        await driver.send(orders, [out("1")])
        (held,) = await take(subscription, 1)
        await subscription.extend([held], 12.0)
        await until(lambda: "Lost" in events.kinds, 20)
        with pytest.raises(SettlementLost):
            await subscription.settle([held], Outcome.ACK)


async def test_given_back_with_a_delay_beyond_what_sqs_allows_it_is_given_back(
    url: str, name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = Queue(name("orders"))
    async with opened(url) as driver:
        subscription = await subscribed(driver, orders)
        await driver.send(orders, [out("1")])
        await subscription.settle(await take(subscription, 1), Outcome.NACK, delay=limits.MAX_HOLD + 100.0)
        depth = await driver.depth(orders)
        assert (depth.ready, depth.in_flight) == (0, 1)


async def test_a_delay_longer_than_sqs_has_goes_in_stretches(
    url: str, name: Name, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_DELAY", 2)
    orders = Queue(name("orders"))
    async with opened(url) as driver:
        subscription = await subscribed(driver, orders)
        began = time.monotonic()
        await driver.send(orders, [out("late", delay=5.0, headers={"h": "v"}, key="k"), out("soon", delay=1.0)])
        (soon,) = await take(subscription, 1)
        (late,) = await take(subscription, 1)
        assert time.monotonic() - began >= 5.0
        assert (soon.message_id, late.message_id, late.body) == ("soon", "late", b"late")
        assert (dict(late.headers), late.key, late.redelivered) == ({"h": "v"}, "k", False)
        await subscription.settle([soon, late], Outcome.ACK)
        assert not await subscription.receive(1, 3.0)


@pytest.mark.parametrize(("most", "refused"), [(3, True), (9, True), (10, False)])
async def test_a_redrive_policy_that_would_take_healthy_messages_is_refused(
    moto: str, name: Name, most: int, refused: bool
) -> None:
    orders = Queue(name("orders"))
    async with opened(moto) as driver:
        await driver.declare(Topology(create=(orders, orders.dead_letters)))
        with plain(moto) as client:
            urls = [client.get_queue_url(QueueName=queue_name(q))["QueueUrl"] for q in (orders, orders.dead_letters)]
            arn = client.get_queue_attributes(QueueUrl=urls[1], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": most})
            client.set_queue_attributes(QueueUrl=urls[0], Attributes={"RedrivePolicy": policy})
        if refused:
            with pytest.raises(TopologyMismatch, match=f"maxReceiveCount={most}"):
                await subscribed(driver, orders)
        else:
            await subscribed(driver, orders)


async def test_the_other_ordering_is_a_mismatch(url: str, name: Name) -> None:
    async with opened(url) as driver:
        await driver.declare(Topology(create=(Queue(name("orders")),)))
        with pytest.raises(TopologyMismatch, match="ordering"):
            await driver.declare(Topology(create=(Queue(name("orders"), ordering="key"),)))


async def test_a_queue_that_was_deleted_is_made_anew_and_said(moto: str, name: Name) -> None:
    orders, events = Queue(name("orders")), Events()
    async with opened(moto) as driver:
        subscription = await subscribed(driver, orders, events=events)
        receiving = asyncio.ensure_future(subscription.receive(1, 60.0))
        with plain(moto) as client:
            client.delete_queue(QueueUrl=client.get_queue_url(QueueName=queue_name(orders))["QueueUrl"])
        await until(lambda: "Recreated" in events.kinds)
        await driver.send(orders, [out("1")])
        (delivery,) = await receiving
        await subscription.settle([delivery], Outcome.ACK)
        assert "Disconnected" in events.kinds


async def test_a_queue_keeps_messages_for_as_long_as_it_can(url: str, name: Name) -> None:
    orders = Queue(name("orders"))
    async with opened(url) as driver:
        await driver.declare(Topology(create=(orders,)))
        with plain(url) as client:
            queue = client.get_queue_url(QueueName=queue_name(orders))["QueueUrl"]
            told = client.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
        if "MessageRetentionPeriod" not in told:
            pytest.skip("ElasticMQ keeps messages for ever and does not tell")
        assert told["MessageRetentionPeriod"] == str(14 * 24 * 3600)

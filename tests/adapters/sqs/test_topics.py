"""Topics through SNS: nothing is confirmed that a group would miss, as far as anybody can know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.adapters.sqs.conftest import Events, ids, opened, out, plain, subscribed, take, until
from unibus.driver import Outcome, Topic, TopicSubscription, Topology
from unibus.errors import BatchError, NotSent, Rejected, TopologyMismatch
from unibus_sqs.driver import SqsDriver

Name = Callable[[str], str]


async def test_what_an_ordered_group_would_miss_is_refused(moto: str, name: Name) -> None:
    group = TopicSubscription((name("user.*.changed"),), name("mail"), ordering="key")
    wanted, other = name("user.ada.changed"), name("user.ada.deleted")
    async with opened(moto) as driver, opened(moto) as publisher:
        subscription = await subscribed(driver, group)
        with pytest.raises(BatchError) as failed:
            await publisher.send(Topic(wanted), [out("1", topic=wanted), out("2", topic=other)])
        assert failed.value.errors.keys() == {0}
        assert isinstance(failed.value.errors[0], Rejected)
        assert 'ordering="key"' in str(failed.value.errors[0])
        await publisher.send(Topic(wanted, ordering="key"), [out("3", topic=wanted, key="k")])
        (delivery,) = await take(subscription, 1)
        assert delivery.message_id == "3"
        await subscription.settle([delivery], Outcome.ACK)


async def test_an_unordered_group_hears_both_ways(moto: str, name: Name) -> None:
    topic = name("news")
    async with opened(moto) as driver:
        subscription = await subscribed(driver, TopicSubscription((topic,), name("mail")))
        await driver.send(Topic(topic), [out("1")])
        await driver.send(Topic(topic, ordering="key"), [out("2", key="k")])
        got = await take(subscription, 2)
        assert set(ids(got)) == {"1", "2"}
        await subscription.settle(got, Outcome.ACK)


async def test_a_subscription_that_was_deleted_is_made_again_and_said(moto: str, name: Name) -> None:
    topic, events = name("news"), Events()
    group = TopicSubscription((topic,), name("mail"))
    async with opened(moto + "&topic_check=1") as driver:
        subscription = await subscribed(driver, group, events=events)
        receiving = asyncio.ensure_future(subscription.receive(1, 60.0))
        with plain(moto, "sns") as client:
            arn = client.create_topic(Name="unibus")["TopicArn"]
            pages = client.get_paginator("list_subscriptions_by_topic").paginate(TopicArn=arn)
            ours = [one for page in pages for one in page["Subscriptions"] if one["Endpoint"].endswith("--mail")]
            (mine,) = [one for one in ours if name("mail").partition(".")[0] in one["Endpoint"]]
            client.unsubscribe(SubscriptionArn=mine["SubscriptionArn"])
        await until(lambda: "Gap" in events.kinds)
        await driver.send(Topic(topic), [out("1")])
        (delivery,) = await receiving
        await subscription.settle([delivery], Outcome.ACK)


async def test_other_patterns_are_another_group(moto: str, name: Name) -> None:
    async with opened(moto) as driver:
        await driver.declare(Topology(create=(TopicSubscription((name("a.*"),), name("mail")),)))
        other = TopicSubscription((name("b.*"),), name("mail"))
        for topology in (Topology(create=(other,)), Topology(verify=(other,))):
            with pytest.raises(TopologyMismatch, match="patterns"):
                await driver.declare(topology)
        same = TopicSubscription((name("a.*"),), name("mail"))
        await driver.declare(Topology(create=(same,), verify=(same,)))


async def published(driver: SqsDriver, topic: str, message: str) -> Exception | None:
    try:
        await driver.send(Topic(topic), [out(message)])
    except BatchError as failed:
        return failed.errors[0]
    return None


async def test_a_topic_that_was_deleted_confirms_nothing_until_its_groups_are_back(moto: str, name: Name) -> None:
    topic, events = name("news"), Events()
    soon = moto.replace("timeout=30", "timeout=5&topic_check=2")
    async with opened(soon) as driver, opened(soon) as publisher:
        subscription = await subscribed(driver, TopicSubscription((topic,), name("mail")), events=events)
        receiving = asyncio.ensure_future(subscription.receive(10, 60.0))
        await publisher.send(Topic(topic), [out("0")])
        got = list(await receiving)
        receiving = asyncio.ensure_future(subscription.receive(10, 60.0))
        with plain(moto, "sns") as client:
            client.delete_topic(TopicArn=client.create_topic(Name="unibus")["TopicArn"])
        confirmed, refused = ["0"], 0
        async with asyncio.timeout(60):
            for number in range(1, 10_000):
                error = await published(publisher, topic, str(number))
                if error is None:
                    confirmed.append(str(number))
                    break
                assert isinstance(error, NotSent)
                refused += 1
                await asyncio.sleep(0.05)
        assert refused > 1
        got += await receiving
        assert ids(got) == confirmed
        assert "Gap" in events.kinds
        await subscription.settle(got, Outcome.ACK)

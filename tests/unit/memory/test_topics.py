"""Topics, groups and ephemeral subscriptions, whatever the model."""

from __future__ import annotations

import pytest

from tests.unit.memory.tools import GROUP, Events, World, create, now, out, outs
from unibus.driver import Outcome, Topic, TopicSubscription
from unibus.errors import DestinationNotFound, UnsupportedCapability


async def test_every_group_gets_every_message_and_its_members_share(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url.replace("partitions=1", "partitions=2"))
    other = TopicSubscription(("order.*",), group="audit")
    await driver.declare(create(GROUP, other))
    await driver.send(Topic("order.made"), [])
    one = await driver.subscribe(GROUP, prefetch=10, notify=events)
    two = await driver.subscribe(GROUP, prefetch=10, notify=events)
    audit = await driver.subscribe(other, prefetch=10, notify=events)
    await driver.send(Topic("order.made"), [out(n, key=f"k{n}") for n in range(8)])
    shared = [*await now(one, 4), *await now(two, 8), *await now(one, 8)]
    assert sorted(shared) == [str(n) for n in range(8)]
    assert len(await now(audit)) == 8


async def test_each_outbound_may_name_its_own_topic(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    exact = TopicSubscription(("order.made",), group="exact")
    await driver.declare(create(GROUP, exact))
    wide = await driver.subscribe(GROUP, prefetch=10, notify=events)
    narrow = await driver.subscribe(exact, prefetch=10, notify=events)
    messages = [out(1, topic="order.made"), out(2, topic="order.paid"), out(3, topic="user.made"), out(4)]
    await driver.send(Topic("order.made"), messages)
    got = {delivery.message_id: delivery.address for delivery in await wide.receive(10, 0)}
    assert got == {"1": "order.made", "2": "order.paid", "4": "order.made"}
    assert await now(narrow) == ["1", "4"]
    assert messages[3].topic is None


async def test_publishing_to_nobody_succeeds(world: World, url: str) -> None:
    driver = await world.driver(url)
    await driver.send(Topic("order.made"), outs(1))


async def test_a_group_gets_what_is_published_after_it_was_declared(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.send(Topic("order.made"), outs("before"))
    await driver.declare(create(GROUP))
    await driver.send(Topic("order.made"), outs("after"))
    await driver.send(Topic("order.new"), outs("first of a new topic"))
    subscription = await driver.subscribe(GROUP, prefetch=10, notify=events)
    assert sorted(await now(subscription)) == ["after", "first of a new topic"]


async def test_declaring_again_replaces_the_patterns(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(GROUP))
    await driver.send(Topic("user.made"), outs(0))
    await driver.send(Topic("order.made"), outs(1))
    subscription = await driver.subscribe(GROUP, prefetch=10, notify=events)
    await subscription.settle(await subscription.receive(10, 0), Outcome.ACK)
    await driver.declare(create(TopicSubscription(("user.#",), group="email")))
    await driver.send(Topic("order.made"), outs(2))
    await driver.send(Topic("user.made"), outs(3))
    assert await now(subscription) == ["3"]


async def test_sending_to_a_group_reaches_that_group_alone_and_keeps_the_topic(
    world: World, url: str, events: Events
) -> None:
    driver = await world.driver(url)
    other = TopicSubscription(("order.*",), group="audit")
    await driver.declare(create(GROUP, other))
    subscription = await driver.subscribe(GROUP, prefetch=10, notify=events)
    audit = await driver.subscribe(other, prefetch=10, notify=events)
    await driver.send(GROUP, [out(1, topic="order.made"), out(2), out(3, topic="order.made", delay=5)])
    got = await subscription.receive(10, 0)
    assert [(d.message_id, d.address) for d in got] == [("1", "order.made"), ("2", "unibus.group.email")]
    await world.clock.advance(5)
    assert [d.address for d in await subscription.receive(10, 0)] == ["order.made"]
    assert await now(audit) == []


async def test_a_dead_letter_keeps_its_topic(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    dead = GROUP.dead_letters
    await driver.declare(create(dead))
    await driver.send(dead, [out(1, topic="order.made")])
    subscription = await driver.subscribe(dead, prefetch=10, notify=events)
    assert [d.address for d in await subscription.receive(10, 0)] == ["order.made"]


async def test_patterns_never_match_what_unibus_makes(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    everything = TopicSubscription(("#",), group="all")
    await driver.declare(create(everything))
    subscription = await driver.subscribe(everything, prefetch=10, notify=events)
    await driver.send(Topic("a.dlq"), outs(1))
    await driver.send(Topic("a"), outs(2))
    assert await now(subscription) == ["2"]


async def test_an_ephemeral_subscription_gets_what_is_published_while_it_is_there(
    world: World, url: str, events: Events
) -> None:
    driver = await world.driver(url)
    source = TopicSubscription(("order.*",))
    await driver.declare(create(source))
    await driver.send(Topic("order.made"), outs("before"))
    one = await driver.subscribe(source, prefetch=10, notify=events)
    two = await driver.subscribe(source, prefetch=10, notify=events)
    await driver.send(Topic("order.made"), outs(1))
    await driver.send(Topic("order.new"), outs(2))
    assert sorted(await now(one)) == ["1", "2"]
    assert (await driver.depth(source)).in_flight == 2
    await one.close()
    await driver.send(Topic("order.made"), outs(3))
    assert sorted(await now(two)) == ["1", "2", "3"]
    await two.close()
    with pytest.raises(DestinationNotFound):
        await driver.depth(source)


async def test_an_ephemeral_subscription_can_give_back(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    subscription = await driver.subscribe(TopicSubscription(("order.*",)), prefetch=10, notify=events)
    await driver.send(Topic("order.made"), outs(1, 2))
    held = await subscription.receive(10, 0)
    await subscription.settle(held[:1], Outcome.NACK)
    assert await now(subscription) == ["1"]
    with pytest.raises(UnsupportedCapability, match="no group"):
        await driver.send(TopicSubscription(("order.*",)), outs(1))

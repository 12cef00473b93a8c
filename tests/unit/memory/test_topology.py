"""Addresses, whatever the model: declared, verified, under another name, or never declared."""

from __future__ import annotations

import pytest

from tests.unit.memory.tools import GROUP, QUEUE, Events, World, create, outs
from unibus.driver import Queue, Topic, TopicSubscription
from unibus.errors import DestinationNotFound, TopologyMismatch


async def test_what_was_never_declared_cannot_be_consumed_or_measured(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    for source in (QUEUE, GROUP):
        with pytest.raises(DestinationNotFound):
            await driver.subscribe(source, prefetch=1, notify=events)
        with pytest.raises(DestinationNotFound):
            await driver.depth(source)
        with pytest.raises(DestinationNotFound):
            await driver.declare(type(create())(verify=(source,)))


async def test_declaring_is_idempotent_and_names_differences(world: World, url: str) -> None:
    driver = await world.driver(url)
    topology = create(QUEUE, Topic("order.made"), GROUP)
    await driver.declare(topology)
    await driver.declare(topology)
    await driver.declare(type(topology)(verify=topology.create))
    with pytest.raises(TopologyMismatch, match=r"ordering='none', not ordering='key'"):
        await driver.declare(create(Queue("orders", ordering="key")))
    with pytest.raises(TopologyMismatch, match="ordering"):
        await driver.declare(create(TopicSubscription(("order.*",), group="email", ordering="key")))
    with pytest.raises(TopologyMismatch, match=r"patterns=\['order.\*'\]"):
        await driver.declare(type(topology)(verify=(TopicSubscription(("a.b",), group="email"),)))
    await driver.declare(create(Queue("wide", partitions=3)))
    with pytest.raises(TopologyMismatch, match="partitions=3, not partitions=4"):
        await driver.declare(create(Queue("wide", partitions=4)))
    await driver.declare(create(Queue("wide")))


async def test_subscribing_with_another_ordering_is_a_mismatch(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    with pytest.raises(TopologyMismatch):
        await driver.subscribe(Queue("orders", ordering="key"), prefetch=1, notify=events)


async def test_a_physical_name_is_the_brokers_name(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    old = Queue("orders", physical="Legacy.Orders_Q")
    await driver.declare(create(old))
    await driver.send(Queue("other", physical="Legacy.Orders_Q"), outs(1))
    subscription = await driver.subscribe(old, prefetch=1, notify=events)
    [delivery] = await subscription.receive(1, 0)
    assert delivery.address == "orders"
    with pytest.raises(DestinationNotFound):
        await driver.depth(QUEUE)

"""Sending, whatever the model: what arrives as it was sent, or after its delay, and what is refused."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.memory.tools import GROUP, QUEUE, Events, World, create, ids, now, out, outs
from unibus.driver import Outbound, Outcome, Topic
from unibus.errors import BatchError, DestinationNotFound, MessageTooLarge, UnsupportedCapability


async def test_a_message_arrives_as_it_was_sent(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    sent_at = world.clock.now()
    await driver.send(QUEUE, [Outbound(b"body", {"a": "1"}, {"b": "2"}, "k", "id-1")])
    await world.clock.advance(5)
    [delivery] = await subscription.receive(10, 0)
    assert (delivery.body, delivery.attributes, delivery.headers) == (b"body", {"a": "1"}, {"b": "2"})
    assert (delivery.key, delivery.message_id, delivery.address) == ("k", "id-1", "orders")
    assert delivery.sent_at == sent_at
    assert delivery.redelivered is False


async def test_a_tombstone_has_no_body(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url + ("&" if "?" in url else "?") + "max_body=5")
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, [out(1, body=None)])
    assert (await subscription.receive(1, 0))[0].body is None


async def test_the_batch_option_limits_every_call(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url + ("&" if "?" in url else "?") + "batch=2")
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=100, notify=events)
    with pytest.raises(ValueError, match="3 messages"):
        await driver.send(QUEUE, outs(1, 2, 3))
    await driver.send(QUEUE, outs(1, 2))
    await driver.send(QUEUE, outs(3, 4))
    first = await subscription.receive(100, 0)
    second = await subscription.receive(100, 0)
    assert (ids(first), ids(second)) == (["1", "2"], ["3", "4"])
    with pytest.raises(ValueError, match="4 deliveries"):
        await subscription.settle([*first, *second], Outcome.ACK)


async def test_a_short_delay_sent_after_a_long_one_arrives_first(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, [out("hour", delay=3600), out("second", delay=1), out("same", delay=1), out("now")])
    assert await now(subscription) == ["now"]
    assert (await driver.depth(QUEUE)).delayed == 3
    await world.clock.advance(0.9)
    assert await now(subscription) == []
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.advance(0.1)
    assert ids(waiting.result()) + await now(subscription) == ["second", "same"]
    await world.clock.advance(3598)
    assert "hour" not in await now(subscription)
    await world.clock.advance(1)
    assert "hour" in await now(subscription)


async def test_many_delays_share_one_timer(world: World, url: str) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    await driver.send(QUEUE, [out(n, delay=100 - n) for n in range(100)])
    timers = [timer for _, _, timer in world.clock._timers if not timer.cancelled]
    assert len(timers) == 1


async def test_sending_to_what_was_never_declared(world: World, url: str) -> None:
    driver = await world.driver(url)
    for address in (QUEUE, GROUP):
        with pytest.raises(BatchError) as caught:
            await driver.send(address, outs(1, 2))
        assert sorted(caught.value.errors) == [0, 1]
        assert all(isinstance(error, DestinationNotFound) for error in caught.value.errors.values())


async def test_too_large_messages_fail_alone(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url + ("&" if "?" in url else "?") + "max_body=3")
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    with pytest.raises(BatchError) as caught:
        await driver.send(QUEUE, [out(0), out(1, body=b"four"), out(2, body=b"yes")])
    assert list(caught.value.errors) == [1]
    error = caught.value.errors[1]
    assert isinstance(error, MessageTooLarge)
    assert (error.size, error.limit) == (4, 3)
    assert await now(subscription) == ["0", "2"]


async def test_priorities_and_delayed_publishing_are_refused(world: World, url: str) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    with pytest.raises(UnsupportedCapability, match="priorit"):
        await driver.send(QUEUE, [Outbound(b"", {}, {}, None, "1", priority=3)])
    with pytest.raises(UnsupportedCapability, match="delay"):
        await driver.send(Topic("a.b"), [out(1, delay=1)])
    assert (await driver.depth(QUEUE)).ready == 0

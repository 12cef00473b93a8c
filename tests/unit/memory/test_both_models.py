"""What holds whatever the model."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math

import pytest

from tests.unit.memory.tools import QUEUE, Events, World, create, ids, now, out, outs
from unibus.driver import Browser, LeaseExtender, Outbound, Outcome, Queue, Topic, TopicSubscription
from unibus.errors import (
    BatchError,
    ConnectionLost,
    DestinationNotFound,
    MessageTooLarge,
    NotOpen,
    SettlementLost,
    TopologyMismatch,
    UnsupportedCapability,
)
from unibus.testing.clock import MovableClock

GROUP = TopicSubscription(("order.*",), group="email")


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


async def test_receive_returns_in_order_and_never_more_than_asked(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=100, notify=events)
    await driver.send(QUEUE, outs(1, 2, 3, 4, 5))
    assert await now(subscription, 2) == ["1", "2"]
    assert await now(subscription, 2) == ["3", "4"]
    assert await now(subscription, 2) == ["5"]
    assert await now(subscription, 2) == []


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


async def test_unsettled_deliveries_never_exceed_the_prefetch(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=2, notify=events)
    await driver.send(QUEUE, outs(1, 2, 3))
    held = await subscription.receive(10, 0)
    assert ids(held) == ["1", "2"]
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.advance(1)
    assert not waiting.done()
    await subscription.settle(held[:1], Outcome.ACK)
    assert ids(await waiting) == ["3"]


async def test_receive_waits_for_a_message(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=2, notify=events)
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.advance(59)
    assert not waiting.done()
    await driver.send(QUEUE, outs(1))
    await world.clock.quiet()
    assert ids(waiting.result()) == ["1"]


async def test_receive_is_empty_after_max_wait_and_not_before(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=2, notify=events)
    waiting = asyncio.create_task(subscription.receive(10, 5))
    await world.clock.advance(4.999)
    assert not waiting.done()
    await world.clock.advance(0.001)
    assert list(waiting.result()) == []


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_receive_loses_nothing(world: World, url: str, events: Events, turns: int) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.quiet()
    await driver.send(QUEUE, outs(1, 2))
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    got: list[str] = []
    with contextlib.suppress(asyncio.CancelledError):
        got += ids(await waiting)
    assert got + await now(subscription) == ["1", "2"]


async def test_one_receive_at_a_time(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    waiting = asyncio.create_task(subscription.receive(10, 5))
    await world.clock.quiet()
    with pytest.raises(RuntimeError, match="one at a time"):
        await subscription.receive(10, 5)
    await world.clock.advance(5)
    await waiting


@pytest.mark.parametrize("outcome", [Outcome.ACK, Outcome.REJECT])
async def test_what_is_done_never_comes_again(world: World, url: str, events: Events, outcome: Outcome) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    first = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1, 2, 3))
    a, b, c = await first.receive(10, 0)
    await first.settle([b], outcome)
    await first.settle([a, c], outcome)
    await first.close()
    second = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    assert await now(second) == []
    assert (await driver.depth(QUEUE)).ready == 0


async def test_settling_twice_is_no_error(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1, 2))
    a, b = await subscription.receive(10, 0)
    await subscription.settle([a], Outcome.ACK)
    await subscription.settle([a, b], Outcome.ACK)
    await subscription.settle([b], Outcome.NACK)
    assert await now(subscription) == []


async def test_what_is_given_back_comes_first_and_is_marked(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1, 2, 3, 4))
    a, b, c = await subscription.receive(3, 0)
    await subscription.settle([c], Outcome.NACK)
    await subscription.settle([b, a], Outcome.NACK)
    again = await subscription.receive(10, 0)
    assert ids(again) == ["1", "2", "3", "4"]
    assert [delivery.redelivered for delivery in again] == [True, True, True, False]


async def test_what_is_given_back_wakes_a_waiting_receive(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1))
    held = await subscription.receive(3, 0)
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.quiet()
    await subscription.settle(held, Outcome.NACK)
    assert ids(await waiting) == ["1"]


async def test_a_nack_with_a_delay_comes_later_and_never_early(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url + ("" if "?" in url else "?lease=0"))
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1, 2))
    a, b = await subscription.receive(10, 0)
    await subscription.settle([a], Outcome.NACK, delay=10)
    assert await now(subscription) == []
    assert (await driver.depth(QUEUE)).delayed == 1
    waiting = asyncio.create_task(subscription.receive(10, 60))
    await world.clock.advance(9.9)
    assert not waiting.done()
    await world.clock.advance(0.1)
    [again] = waiting.result()
    assert (again.message_id, again.redelivered) == ("1", True)
    with pytest.raises(UnsupportedCapability):
        await subscription.settle([b], Outcome.ACK, delay=1)


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


async def test_close_gives_back_in_order(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    first = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.send(QUEUE, outs(1, 2, 3, 4))
    held = await first.receive(3, 0)
    await first.close()
    await first.close()
    assert events == []
    second = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    assert await now(second) == ["1", "2", "3", "4"]
    with pytest.raises(SettlementLost):
        await first.settle(held, Outcome.ACK)
    with pytest.raises(NotOpen):
        await first.receive(1, 0)


async def test_close_ends_a_waiting_receive(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    waiting = asyncio.create_task(subscription.receive(1, 60))
    await world.clock.quiet()
    await subscription.close()
    assert list(await waiting) == []


async def test_the_driver_is_usable_only_while_open(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    await driver.close()
    await driver.close()
    for call in (
        lambda: driver.send(QUEUE, outs(1)),
        lambda: driver.declare(create(QUEUE)),
        lambda: driver.depth(QUEUE),
        lambda: driver.subscribe(QUEUE, prefetch=1, notify=events),
        lambda: driver.browse(QUEUE, None, 1),
        lambda: subscription.receive(1, 0),
    ):
        with pytest.raises(NotOpen):
            await call()


async def test_a_vanished_driver_looks_like_a_killed_process(world: World, url: str, events: Events) -> None:
    shared = url.replace("memory://", "memory://shared")
    victim, survivor = await world.driver(shared), await world.driver(shared)
    await victim.declare(create(QUEUE))
    subscription = await victim.subscribe(QUEUE, prefetch=3, notify=events)
    ephemeral = await victim.subscribe(TopicSubscription(("a.b",)), prefetch=3, notify=events)
    await survivor.send(QUEUE, outs(1, 2, 3, 4))
    held = await subscription.receive(3, 0)
    await subscription.settle(held[:1], Outcome.ACK)
    pending = asyncio.create_task(ephemeral.receive(10, 60))
    await world.clock.quiet()

    victim.vanish()

    with pytest.raises(ConnectionLost):
        await pending
    for call in (
        lambda: victim.send(QUEUE, outs(1)),
        lambda: victim.depth(QUEUE),
        lambda: subscription.receive(1, 0),
        lambda: subscription.settle(held, Outcome.ACK),
        lambda: subscription.extend(held, 1),
    ):
        with pytest.raises(ConnectionLost):
            await call()
    assert events == []
    await subscription.close()
    with pytest.raises(DestinationNotFound):
        await survivor.depth(TopicSubscription(("a.b",)))
    heir = await survivor.subscribe(QUEUE, prefetch=10, notify=events)
    assert await now(heir) == ["2", "3", "4"]


async def test_at_most_once_settles_on_receipt(world: World, url: str, events: Events) -> None:
    shared = url.replace("memory://", "memory://once")
    shared += ("&" if "?" in url else "?") + "guarantee=at_most_once"
    victim, survivor = await world.driver(shared), await world.driver(shared)
    await victim.declare(create(QUEUE))
    subscription = await victim.subscribe(QUEUE, prefetch=2, notify=events)
    await victim.send(QUEUE, outs(1, 2, 3, 4, 5))
    held = [*await subscription.receive(2, 0), *await subscription.receive(2, 0)]
    assert ids(held) == ["1", "2", "3", "4"]
    assert (await victim.depth(QUEUE)).in_flight == 0
    await subscription.settle(held[:1], Outcome.NACK)
    await subscription.settle(held[1:2], Outcome.ACK)
    await world.clock.advance(100)
    victim.vanish()
    heir = await survivor.subscribe(QUEUE, prefetch=10, notify=events)
    assert await now(heir) == ["5"]


async def test_browse_shows_pages_without_side_effects(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    assert isinstance(driver, Browser)
    await driver.declare(create(QUEUE))
    await driver.send(QUEUE, [*outs(1, 2, 3, 4, 5), out("later", delay=5)])
    pages, cursor = [], None
    for _ in range(3):
        page, cursor = await driver.browse(QUEUE, cursor, 2)
        pages.append(ids(page))
    assert (pages, cursor) == ([["1", "2"], ["3", "4"], ["5"]], None)
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    held = await subscription.receive(10, 0)
    assert [delivery.redelivered for delivery in held] == [False] * 5
    await subscription.settle(held[:2], Outcome.NACK)
    await subscription.settle(held[2:], Outcome.ACK)
    page, _ = await driver.browse(QUEUE, None, 2)
    assert ids(page) == ["1", "2"]


async def test_depth(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    empty = await driver.depth(QUEUE)
    assert (empty.ready, empty.in_flight, empty.delayed, empty.oldest_age) == (0, 0, 0, None)
    await driver.send(QUEUE, outs(1, 2))
    await world.clock.advance(3)
    await driver.send(QUEUE, [out(3), out(4, delay=60)])
    await world.clock.advance(1)
    await subscription.receive(1, 0)
    depth = await driver.depth(QUEUE)
    assert (depth.ready, depth.in_flight, depth.delayed, depth.oldest_age) == (2, 1, 1, 4.0)


async def test_a_settled_message_leaves_no_trace(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    ordered = Queue("ordered", ordering="key")
    await driver.declare(create(QUEUE, ordered))
    for queue in (QUEUE, ordered):
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        for n in range(30):
            await driver.send(queue, [out(f"trace-{n}-{m}", key=f"trace-{n}") for m in range(3)])
            held = await subscription.receive(10, 0)
            await subscription.settle(held[:1], Outcome.NACK)
            await subscription.settle([*held[1:], *await subscription.receive(10, 0)], Outcome.ACK)
        del held
    gc.collect()
    traces = [
        thing for thing in gc.get_objects() if isinstance(thing, Outbound) and thing.message_id.startswith("trace")
    ]
    assert traces == []


async def test_a_waiting_subscription_is_not_starved(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url.replace("partitions=1", "partitions=2"))
    await driver.declare(create(QUEUE))
    subscriptions = [await driver.subscribe(QUEUE, prefetch=10, notify=events) for _ in range(2)]
    counts = [0, 0]

    async def consume(n: int) -> None:
        while sum(counts) < 200:
            batch = await subscriptions[n].receive(1, 1)
            await subscriptions[n].settle(batch, Outcome.ACK)
            counts[n] += len(batch)

    await driver.send(QUEUE, outs(*range(200)))
    tasks = [asyncio.create_task(consume(n)) for n in range(2)]
    await world.clock.advance(0)
    await world.clock.advance(2)
    await asyncio.gather(*tasks)
    assert min(counts) >= 90


async def test_capabilities_match_the_subscription(world: World, url: str, events: Events) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    subscription = await driver.subscribe(QUEUE, prefetch=10, notify=events)
    if driver.capabilities.lease is not None:
        assert isinstance(subscription, LeaseExtender)
    assert driver.capabilities.lease != math.inf


async def test_priorities_and_delayed_publishing_are_refused(world: World, url: str) -> None:
    driver = await world.driver(url)
    await driver.declare(create(QUEUE))
    with pytest.raises(UnsupportedCapability, match="priorit"):
        await driver.send(QUEUE, [Outbound(b"", {}, {}, None, "1", priority=3)])
    with pytest.raises(UnsupportedCapability, match="delay"):
        await driver.send(Topic("a.b"), [out(1, delay=1)])
    assert (await driver.depth(QUEUE)).ready == 0


async def test_competing_receives_each_get_one(clock: MovableClock, world: World, events: Events) -> None:
    driver = await world.driver()
    await driver.declare(create(QUEUE))
    subscriptions = [await driver.subscribe(QUEUE, prefetch=10, notify=events) for _ in range(3)]
    waiting = [asyncio.create_task(s.receive(1, 60)) for s in subscriptions]
    await clock.quiet()
    await driver.send(QUEUE, outs(1, 2))
    await clock.quiet()
    assert [ids(task.result()) for task in waiting[:2]] == [["1"], ["2"]]
    assert not waiting[2].done()
    await driver.send(QUEUE, outs(3))
    assert ids(await waiting[2]) == ["3"]


async def test_a_wake_up_that_is_cancelled_goes_to_the_next(clock: MovableClock, world: World, events: Events) -> None:
    driver = await world.driver()
    await driver.declare(create(QUEUE))
    first, second = [await driver.subscribe(QUEUE, prefetch=10, notify=events) for _ in range(2)]
    cancelled = asyncio.create_task(first.receive(1, 60))
    await clock.quiet()
    waiting = asyncio.create_task(second.receive(1, 60))
    await clock.quiet()
    await driver.send(QUEUE, outs(1))
    cancelled.cancel()
    await clock.quiet()
    assert cancelled.cancelled()
    assert ids(waiting.result()) == ["1"]


async def test_a_full_subscription_does_not_stand_in_the_way(clock: MovableClock, world: World, events: Events) -> None:
    driver = await world.driver()
    await driver.declare(create(QUEUE))
    full = await driver.subscribe(QUEUE, prefetch=1, notify=events)
    free = await driver.subscribe(QUEUE, prefetch=1, notify=events)
    await driver.send(QUEUE, outs(1))
    await full.receive(1, 0)
    stuck = asyncio.create_task(full.receive(1, 5))
    await clock.quiet()
    waiting = asyncio.create_task(free.receive(1, 5))
    await clock.quiet()
    await driver.send(QUEUE, outs(2))
    await clock.quiet()
    assert ids(waiting.result()) == ["2"]
    await clock.advance(5)
    assert list(stuck.result()) == []

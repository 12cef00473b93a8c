"""What is RabbitMQ's own: outcomes of publishing, bindings, the ladder's ends, physical names, limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.adapters.rabbitmq.conftest import opened, plain
from tests.brokers import Broker
from unibus.driver import (
    Delivery,
    DriverEvent,
    Gap,
    Narrowing,
    Outbound,
    Outcome,
    Queue,
    Subscription,
    Topic,
    TopicSubscription,
    Topology,
)
from unibus.errors import (
    BatchError,
    ConfigurationError,
    DestinationNotFound,
    MessageTooLarge,
    Rejected,
    TopologyMismatch,
    UnsupportedCapability,
)  # fmt: skip
from unibus_rabbitmq import ladder


def out(name: str, **more: object) -> Outbound:
    message = Outbound(name.encode(), {}, {}, None, name)
    for field, value in more.items():
        setattr(message, field, value)
    return message


async def take(subscription: Subscription, count: int) -> list[Delivery]:
    got: list[Delivery] = []
    while len(got) < count:
        batch = await subscription.receive(count - len(got), 20)
        assert batch, f"{len(got)} of {count} came"
        got += batch
    return got


async def test_capabilities_are_those_of_the_version(server: Broker) -> None:
    async with opened(server.url) as driver:
        known = driver.capabilities
    four = server.version >= "4"
    assert known.max_body == (16 if four else 128) * 1024 * 1024
    assert known.delivery_count == ("native" if four else "none")
    assert known.delay.support == "emulated"
    assert known.delay.max == ladder.LONGEST
    assert (known.lease, known.hold) == (None, 600)


async def test_a_returned_message_is_told_from_its_neighbours(server: Broker, name: Callable[[str], str]) -> None:
    """Also where all bear one logical id, as retries and dead letters do."""
    here, gone = Queue(name("here")), Queue(name("gone"))
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(here,)))
        same = [out("same") for _ in range(50)]
        outcomes = await asyncio.gather(
            *[driver.send(here if n % 3 else gone, same) for n in range(12)], return_exceptions=True
        )
        for number, outcome in enumerate(outcomes):
            if number % 3:
                assert outcome is None
            else:
                assert isinstance(outcome, BatchError)
                assert outcome.errors.keys() == set(range(50))
                assert all(isinstance(error, DestinationNotFound) for error in outcome.errors.values())
        assert (await driver.depth(here)).ready == 400


async def test_a_full_queue_refuses(server: Broker, name: Callable[[str], str]) -> None:
    queue = Queue("orders", physical=name("full"))
    async with plain(server.url) as channel:
        limits: dict[str, Any] = {"x-max-length": 3, "x-overflow": "reject-publish", "x-queue-type": "classic"}
        await channel.declare_queue(queue.physical or "", durable=True, arguments=limits)
        async with opened(server.url) as driver:
            with pytest.raises(BatchError) as failed:
                await driver.send(queue, [out(str(n)) for n in range(10)])
            assert all(isinstance(error, Rejected) for error in failed.value.errors.values())
            assert len(failed.value.errors) == 10 - (await driver.depth(queue)).ready


async def test_what_the_broker_would_close_the_channel_for_is_refused_alone(
    server: Broker, name: Callable[[str], str]
) -> None:
    queue = Queue(name("orders"))
    async with opened(server.url + "?max_body=1000") as driver:
        await driver.declare(Topology(create=(queue,)))
        bad = [
            out("large", body=b"x" * 1001),
            out("headers", headers={f"h{n}": "x" * 4000 for n in range(40)}),
            out("cc", headers={"CC": "somebody"}),
        ]
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, [out("first"), *bad, out("last")])
        kinds = {index: type(error) for index, error in failed.value.errors.items()}
        assert kinds == {1: MessageTooLarge, 2: MessageTooLarge, 3: Rejected}
        assert (await driver.depth(queue)).ready == 2


async def test_large_bodies_go_in_several_frames(server: Broker, name: Callable[[str], str]) -> None:
    queue, sizes = Queue(name("orders")), [0, 1, 131_063, 131_064, 131_065, 262_144, 3_000_000]
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(str(size), body=bytes(size)) for size in sizes])
        subscription = await driver.subscribe(queue, prefetch=100, notify=print)
        assert sorted(len(delivery.body or b"") for delivery in await take(subscription, len(sizes))) == sizes


async def test_a_tombstone_stays_one(server: Broker, name: Callable[[str], str]) -> None:
    queue = Queue(name("orders"))
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out("none", body=None), out("empty", body=b"")])
        subscription = await driver.subscribe(queue, prefetch=100, notify=print)
        got = {delivery.message_id: delivery.body for delivery in await take(subscription, 2)}
    assert got == {"none": None, "empty": b""}


async def test_bindings_follow_the_patterns(server: Broker, name: Callable[[str], str]) -> None:
    before = TopicSubscription((name("a.*"), name("b")), name("group"))
    after = TopicSubscription((name("b"), name("c.#")), name("group"))
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(before,)))
        await driver.declare(Topology(verify=(before,)))
        with pytest.raises(TopologyMismatch, match="patterns"):
            await driver.declare(Topology(verify=(after,)))
        await driver.declare(Topology(create=(after,)))
        await driver.declare(Topology(create=(after,), verify=(after,)))
        topics = [name("a.x"), name("b"), name("c.x.y")]
        await driver.send(Topic("any"), [out(topic, topic=topic) for topic in topics])
        subscription = await driver.subscribe(after, prefetch=100, notify=print)
        got = await take(subscription, 2)
        assert {delivery.message_id for delivery in got} == {name("b"), name("c.x.y")}
        assert not await subscription.receive(1, 0.3)


async def test_a_physical_queue_is_never_created(server: Broker, name: Callable[[str], str]) -> None:
    legacy = Queue("orders", physical=name("Legacy Orders/Q"))
    async with opened(server.url) as driver, plain(server.url) as channel:
        with pytest.raises(DestinationNotFound):
            await driver.declare(Topology(create=(legacy,)))
        await channel.declare_queue(legacy.physical or "", auto_delete=False)
        await driver.declare(Topology(create=(legacy,), verify=(legacy,)))
        await driver.send(legacy, [out("now"), out("later", delay=0.2)])
        subscription = await driver.subscribe(legacy, prefetch=10, notify=print)
        got = await take(subscription, 2)
        assert [(delivery.message_id, delivery.address) for delivery in got] == [("now", "orders"), ("later", "orders")]
        await subscription.close()
        await channel.queue_delete(legacy.physical or "")


async def test_what_is_delayed_for_a_queue_that_is_gone_is_kept_and_stops_nobody(
    server: Broker, name: Callable[[str], str]
) -> None:
    here, gone = Queue(name("here")), Queue(name("gone"))
    async with opened(server.url) as driver, plain(server.url) as channel:
        await driver.declare(Topology(create=(here, gone)))
        kept = Queue("orders", physical=ladder.UNDELIVERABLE)
        await driver.send(gone, [out("warm", delay=0.1)])
        before = (await driver.depth(kept)).ready
        await driver.send(gone, [out(f"{name('lost')}{n}", delay=0.5) for n in range(100)])
        await channel.queue_delete(gone.name)
        await driver.send(here, [out(str(n), delay=0.5) for n in range(20)])
        subscription = await driver.subscribe(here, prefetch=100, notify=print)
        await take(subscription, 20)
        async with asyncio.timeout(20):
            while (await driver.depth(kept)).ready < before + 100:
                await asyncio.sleep(0.05)
        with pytest.raises(BatchError, match="DestinationNotFound"):
            await driver.send(Queue(name("never")), [out("1", delay=1)])


async def test_what_is_undeliverable_is_told(
    newest: Broker, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unibus_rabbitmq.undeliverable.LOOK_EVERY", 0.2)
    here, gone, events = Queue(name("here")), Queue(name("gone")), list[DriverEvent]()
    async with opened(newest.url) as driver, plain(newest.url) as channel:
        await driver.declare(Topology(create=(here, gone)))
        await driver.subscribe(here, prefetch=10, notify=events.append)
        await driver.send(here, [out("warm", delay=0.1)])
        await asyncio.sleep(0.5)
        await driver.send(gone, [out(str(n), delay=0.5) for n in range(5)])
        await channel.queue_delete(gone.name)
        async with asyncio.timeout(20):
            while sum(event.count or 0 for event in events if isinstance(event, Gap)) < 5:
                await asyncio.sleep(0.05)


async def test_a_deleted_queue_of_dead_letters_is_made_anew_when_it_is_missed(
    server: Broker, name: Callable[[str], str]
) -> None:
    queue = Queue(name("orders.dlq"))
    async with opened(server.url) as driver, plain(server.url) as channel:
        await driver.declare(Topology(create=(queue,)))
        await channel.queue_delete(queue.name)
        with pytest.raises(BatchError, match="DestinationNotFound"):
            await driver.send(queue, [out("1")])
        await driver.send(queue, [out("1")])


async def test_what_was_made_anew_still_gets_what_was_delayed(server: Broker, name: Callable[[str], str]) -> None:
    queue = Queue(name("orders"))
    async with opened(server.url) as sender, opened(server.url) as consumer, plain(server.url) as channel:
        await consumer.declare(Topology(create=(queue,)))
        await sender.send(queue, [out("1", delay=60)])
        await channel.queue_delete(queue.name)
        await consumer.declare(Topology(create=(queue,)))
        await sender.send(queue, [out("2", delay=0.1)])
        subscription = await consumer.subscribe(queue, prefetch=100, notify=print)
        assert [delivery.message_id for delivery in await take(subscription, 1)] == ["2"]


async def test_acks_cover_what_was_settled_before_and_nothing_else(server: Broker, name: Callable[[str], str]) -> None:
    queue = Queue(name("orders"))
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(str(n)) for n in range(100)])
        subscription = await driver.subscribe(queue, prefetch=100, notify=print)
        got = {int(delivery.message_id): delivery for delivery in await take(subscription, 100)}
        kept = {5, 50, 51, 99}
        for start in (60, 0, 30, 90, 10):
            await subscription.settle(
                [got[n] for n in range(start, start + 30) if n in got and n not in kept], Outcome.ACK
            )
        await subscription.settle([got[5]], Outcome.REJECT)
        await subscription.settle([got[51], got[50]], Outcome.NACK)
        again = await take(subscription, 2)
        assert {int(delivery.message_id) for delivery in again} == {50, 51}
        await subscription.close()
        subscription = await driver.subscribe(queue, prefetch=100, notify=print)
        left = {int(delivery.message_id) for delivery in await take(subscription, 3)}
        assert left == {50, 51, 99}
        assert not await subscription.receive(1, 0.3)


async def test_a_limit_can_be_lowered_and_raised_and_nothing_is_given_back(
    server: Broker, name: Callable[[str], str]
) -> None:
    queue = Queue(name("orders"))
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(str(n)) for n in range(20)])
        subscription = await driver.subscribe(queue, prefetch=5, notify=print)
        first = await take(subscription, 2)
        await subscription.hold_at_most(1)
        first += await take(subscription, 3)  # what was pushed is still received
        assert not await subscription.receive(10, 0.2)
        await subscription.settle(first, Outcome.ACK)
        (sixth,) = await take(subscription, 1)
        assert not await subscription.receive(10, 0.2)
        await subscription.hold_at_most(5)
        rest = await take(subscription, 4)
        assert [delivery.message_id for delivery in (*first, sixth, *rest)] == [str(n) for n in range(10)]
        assert not any(delivery.redelivered for delivery in (*first, sixth, *rest))


async def test_what_cannot_be_meant_is_refused(newest: Broker, name: Callable[[str], str]) -> None:
    async with opened(newest.url) as driver:
        with pytest.raises(UnsupportedCapability):
            await driver.send(Topic(name("t")), [out("1", delay=1)])
        with pytest.raises(UnsupportedCapability):
            await driver.send(TopicSubscription((name("t"),)), [out("1")])
        with pytest.raises(UnsupportedCapability):
            await driver.send(Queue(name("q")), [out("1", delay=ladder.LONGEST + 1)])
        with pytest.raises(ConfigurationError):
            await driver.send(Topic(name("t"), physical="x"), [out("1")])


async def test_given_back_on_an_ordered_queue_it_keeps_its_place(server: Broker, name: Callable[[str], str]) -> None:
    """The broker would put it behind what is in the queue, and behind what it has pushed already."""
    queue = Queue(name("ordered"), ordering="key")
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=6, notify=lambda _: None)
        assert isinstance(subscription, Narrowing)
        await subscription.hold_at_most(6)
        await driver.send(queue, [out(str(number)) for number in range(10)])
        first = await take(subscription, 4)
        await subscription.settle(first[:1], Outcome.ACK)
        await subscription.settle(first[3:], Outcome.NACK)
        await subscription.settle(first[1:3], Outcome.NACK)
        await subscription.settle(first[1:], Outcome.ACK)  # of those the core has let go already: passed over
        again = await take(subscription, 5)
        assert [delivery.body for delivery in again] == [b"1", b"2", b"3", b"4", b"5"]
        assert not set(again) & set(first), "others, since deliveries are known by identity"
        await subscription.settle(again[:2], Outcome.ACK)
        await subscription.close()
        subscription = await driver.subscribe(queue, prefetch=20, notify=lambda _: None)
        assert isinstance(subscription, Narrowing)
        await subscription.hold_at_most(20)
        rest = await take(subscription, 7)
        assert [delivery.body for delivery in rest] == [str(number).encode() for number in range(3, 10)]
        await subscription.close()


async def test_an_ordered_source_gives_back_all_in_order_once_nothing_is_in_hand(
    server: Broker, name: Callable[[str], str]
) -> None:
    """Time and again, with some of what was given back still to come: the broker would put it behind that."""
    queue = Queue(name("ordered"), ordering="key")
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=6, notify=lambda _: None)
        assert isinstance(subscription, Narrowing)
        await driver.send(queue, [out(str(number)) for number in range(12)])
        done: list[bytes] = []
        for _ in range(4):
            some = await take(subscription, 2)
            await subscription.settle(some[1:], Outcome.NACK)
            await subscription.hold_at_most(1)
            assert await subscription.receive(10, 0.2) == [], "one is in hand"
            await subscription.settle(some[:1], Outcome.ACK)
            done += [delivery.body or b"" for delivery in some[:1]]
        done += [delivery.body or b"" for delivery in await take(subscription, 6)]
        assert done == [str(number).encode() for number in range(10)]
        await subscription.close()

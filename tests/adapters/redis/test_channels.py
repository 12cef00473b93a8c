"""Publish and subscribe: at most once, and what is missed is told; what has failed is kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.adapters.redis.conftest import Events, another, ids, opened, out, plain, take, until
from tests.brokers import Broker
from unibus import Bus, Message, retry
from unibus.driver import Gap, Outcome, Topic, TopicSubscription, Topology
from unibus.errors import UnsupportedCapability
from unibus.middleware.backoff import constant
from unibus.testing.proxy import FaultProxy

Name = Callable[[str], str]


def channels(url: str) -> str:
    return url.replace("redis:", "redis+pubsub:")


async def killed(client: Any) -> int:
    """Kill all subscribers, as a server does that fails over, or finds them too slow."""
    return int(await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))


async def test_each_re_subscription_is_a_gap(server: Broker, url: str, proxy: FaultProxy, name: Name) -> None:
    topic, events = name("news"), Events()
    async with opened(channels(url)) as driver, opened(channels(server.url)) as other:
        subscription = await driver.subscribe(TopicSubscription((topic,)), prefetch=10, notify=events)
        for turn in range(1, 4):
            proxy.cut()
            await until(lambda wanted=turn: events.count(Gap()) == wanted)  # type: ignore[misc]
            await other.send(Topic(topic), [out(str(turn))])
            assert ids(await take(subscription, 1)) == [str(turn)]
    assert events.kinds == ["Disconnected", "Reconnected", "Gap"] * 3


async def test_a_slow_subscriber_that_the_server_drops_is_told(server: Broker, name: Name) -> None:
    topic, events, options = name("news"), Events(), ["--client-output-buffer-limit", "pubsub 256kb 128kb 1"]
    async with another(server, *options) as port:
        url = channels(f"redis://127.0.0.1:{port}/0")
        async with opened(url) as driver, opened(url) as publisher:
            subscription = await driver.subscribe(TopicSubscription((topic,)), prefetch=10, notify=events)
            got = list[str]()
            while Gap() not in events:
                await publisher.send(Topic(topic), [out("x", body=b"x" * 100_000) for _ in range(20)])
                if "Disconnected" in events.kinds or len(subscription.inbox.ready) >= 10:  # type: ignore[attr-defined]
                    batch = await subscription.receive(10, 0.05)
                    await subscription.settle(batch, Outcome.ACK)
            while batch := await subscription.receive(10, 0.2):
                await subscription.settle(batch, Outcome.ACK)
            await publisher.send(Topic(topic), [out("after")])
            got += ids(await take(subscription, 1))
            assert got == ["after"]


async def test_a_silent_connection_is_given_up(url: str, proxy: FaultProxy, name: Name) -> None:
    events = Events()
    async with opened(channels(url) + "?timeout=1") as driver:
        await driver.subscribe(TopicSubscription((name("news"),)), prefetch=10, notify=events)
        proxy.freeze()
        await until(lambda: "Disconnected" in events.kinds)
        proxy.heal()
        await until(lambda: Gap() in events)


async def test_members_of_a_group_share_and_each_group_hears_all(server: Broker, name: Name) -> None:
    handled = Counter[tuple[str, int]]()
    buses = [Bus(channels(server.url)) for _ in range(4)]
    for bus, group in zip(buses, ("a", "a", "b", "b"), strict=True):

        @bus.subscriber(name("news.*"), name("news.late"), group=name(group), guarantee="at_most_once")
        async def handle(number: int, *, group: str = group) -> None:
            handled[group, number] += 1

    async with AsyncExitStack() as stack:
        for bus in buses:
            await stack.enter_async_context(bus)
            await stack.enter_async_context(bus.consuming())
        await buses[0].publisher(name("news.late")).publish_many(range(300))
        await until(lambda: handled.total() >= 600)
    assert handled == Counter({(group, number): 1 for group in "ab" for number in range(300)})


async def test_a_group_must_say_that_it_may_miss_messages(server: Broker, name: Name) -> None:
    bus = Bus(channels(server.url))

    @bus.subscriber(name("news"), group=name("group"))
    async def handle(number: int) -> None: ...

    with pytest.raises(UnsupportedCapability, match="at_most_once"):
        async with bus:
            pass


async def test_what_has_failed_is_kept_although_its_process_dies(server: Broker, name: Name) -> None:
    """The retry is delayed, and durable meanwhile: another process handles it."""
    runs = list[tuple[str, int]]()

    def bus_of(which: str, failing: bool) -> Bus:
        bus = Bus(channels(server.url))

        @bus.subscriber(name("news"), group=name("group"), guarantee="at_most_once")
        @retry(on=ConnectionError, attempts=3, backoff=constant(1.5))
        async def handle(message: Message[int]) -> None:
            runs.append((which, message.attempt))
            if failing:
                raise ConnectionError

        return bus

    first = bus_of("first", failing=True)
    async with plain(server.url) as client:
        async with first, first.consuming():
            await first.publisher(name("news")).publish(1)
            await until(lambda: runs == [("first", 1)])

            async def parked() -> bool:
                key = f"unibus.delayed:{{unibus}}.parked.{name('group')}"
                return bool(await client.zcard(key))

            await until(parked)
        second = bus_of("second", failing=False)
        async with second, second.consuming():
            await until(lambda: len(runs) == 2)
    assert runs == [("first", 1), ("second", 2)]


async def test_streams_and_channels_of_one_server_do_not_mix(server: Broker, name: Name) -> None:
    group, topic = TopicSubscription((name("news"),), name("group")), Topic(name("news"))
    async with opened(server.url) as streams, opened(channels(server.url)) as heard, plain(server.url) as client:
        await heard.declare(Topology(create=(group,)))
        listening = await heard.subscribe(group, prefetch=10, notify=Events())
        await streams.declare(Topology(create=(group,)))
        stored = await streams.subscribe(group, prefetch=10, notify=Events())
        await streams.send(topic, [out("stored")])
        await heard.send(topic, [out("heard")])
        assert ids(await take(stored, 1)) == ["stored"]
        assert ids(await take(listening, 1)) == ["heard"]
        assert await client.xlen(f"{{unibus}}.parked.{group.group}") == 0
        await asyncio.sleep(0)

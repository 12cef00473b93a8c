"""What goes away comes back: an answer, the connection, a consumer, its entries, the group, the stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.adapters.redis.conftest import Events, ids, opened, out, plain, take, until
from tests.brokers import Broker
from unibus.driver import Gap, Lost, Outcome, Queue, Recreated, Topic, TopicSubscription, Topology
from unibus.errors import BatchError, NotSent, OutcomeUnknown, SettlementLost
from unibus.testing.proxy import FaultProxy

Name = Callable[[str], str]


async def test_a_send_whose_answer_is_lost_is_unknown_and_not_sent_twice(
    server: Broker, url: str, proxy: FaultProxy, name: Name
) -> None:
    queue = Queue(name("orders"))
    async with opened(url) as driver, plain(server.url) as client:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out("1")])
        dropped = proxy.drop_reply()
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, [out("2"), out("3")])
        assert dropped.is_set()
        assert [type(error) for error in failed.value.errors.values()] == [OutcomeUnknown] * 2
        await driver.send(queue, [out("4")])
        assert await client.xlen(queue.name) == 4


async def test_what_cannot_leave_is_not_sent_and_goes_when_the_server_is_back(
    server: Broker, url: str, proxy: FaultProxy, name: Name
) -> None:
    queue = Queue(name("orders"))
    async with opened(url + "?timeout=1") as driver, plain(server.url) as client:
        await driver.declare(Topology(create=(queue,)))
        proxy.cut(refuse=True)
        with pytest.raises(BatchError):  # whatever became of it: from now on it is known that nobody is there
            await driver.send(queue, [out("0")])
        began = time.monotonic()
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, [out("1")])
        assert isinstance(failed.value.errors[0], NotSent)
        assert time.monotonic() - began < 5
        waiting = asyncio.ensure_future(driver.send(queue, [out("2")]))
        await asyncio.sleep(0)
        proxy.heal()
        await waiting
        assert await client.xlen(queue.name) == 1


async def test_a_black_hole_is_unknown_within_the_deadline_and_is_left(url: str, proxy: FaultProxy, name: Name) -> None:
    queue, events = Queue(name("orders")), Events()
    async with opened(url + "?timeout=1&lease=2") as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        await driver.send(queue, [out("1")])
        await subscription.settle(await take(subscription, 1), Outcome.ACK)
        proxy.freeze()
        began = time.monotonic()
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, [out("2")])
        assert isinstance(failed.value.errors[0], OutcomeUnknown)
        assert time.monotonic() - began < 5
        receiving = asyncio.ensure_future(take(subscription, 1))
        await until(lambda: "Disconnected" in events.kinds)
        proxy.heal()
        await until(lambda: "Reconnected" in events.kinds)
        assert ids(await receiving) == ["2"], "a black hole holds what was sent, and lets it go in the end"


async def test_entries_whose_delivery_was_lost_on_the_way_are_read_again(
    url: str, proxy: FaultProxy, name: Name
) -> None:
    queue, events = Queue(name("orders")), Events()
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        await driver.send(queue, [out("1", body=b"MARK"), out("2"), out("3")])
        dropped = proxy.drop_reply(when=lambda chunk: b"MARK" in chunk)
        got = await take(subscription, 3)
        assert dropped.is_set()
        assert ids(got) == ["1", "2", "3"]
        assert [delivery.deliveries for delivery in got] == [1, 1, 1], "nobody has seen them before"
        await until(lambda: events.kinds == ["Disconnected", "Reconnected"])
        await subscription.settle(got, Outcome.ACK)
        assert (await driver.depth(queue)).in_flight == 0


async def test_a_cut_connection_takes_nothing_away_that_is_in_hand(
    server: Broker, url: str, proxy: FaultProxy, name: Name
) -> None:
    queue, events = Queue(name("orders")), Events()
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        await driver.send(queue, [out(str(n)) for n in range(5)])
        held = await take(subscription, 5)
        receiving = asyncio.ensure_future(take(subscription, 1))
        proxy.cut()
        async with opened(server.url) as other:
            await other.send(queue, [out("after")])
        assert ids(await receiving) == ["after"]
        await subscription.settle(held, Outcome.ACK)
        assert "Lost" not in events.kinds


async def test_a_read_never_blocks_for_longer_than_the_server_is_asked_to(newest: Broker, name: Name) -> None:
    queue = Queue(name("orders"))
    async with opened(newest.url) as driver, plain(newest.url) as client:
        await driver.declare(Topology(create=(queue,)))
        await driver.subscribe(queue, prefetch=10, notify=Events())
        receiving = asyncio.ensure_future(take(await driver.subscribe(queue, prefetch=1, notify=Events()), 1))
        await until(lambda: blocked(client))
        monitored = [line async for line in commands(client, 1)]
        assert all(int(words[words.index("BLOCK") + 1]) <= 2000 for words in monitored)
        await driver.send(queue, [out("1")])
        await receiving


async def blocked(client: Any) -> bool:
    return int((await client.info("clients"))["blocked_clients"]) > 0


async def commands(client: Any, count: int) -> AsyncIterator[list[str]]:
    """The next so many XREADGROUP that anybody sends."""
    async with client.monitor() as monitor:
        seen = 0
        while seen < count:
            line = await monitor.next_command()
            words = line["command"].split(" ")
            if words[0] == "XREADGROUP":
                seen += 1
                yield words


async def test_what_was_trimmed_while_it_was_pending_is_counted_and_handed_to_nobody(
    server: Broker, name: Name
) -> None:
    queue, events = Queue(name("orders")), Events()
    async with opened(server.url + "?lease=1") as dead, opened(server.url + "?lease=1") as driver:
        await dead.declare(Topology(create=(queue,)))
        gone = await dead.subscribe(queue, prefetch=10, notify=Events())
        await dead.send(queue, [out(str(n)) for n in range(5)])
        await take(gone, 5)
        await dead.vanish()
        async with plain(server.url) as client:
            await client.xtrim(queue.name, maxlen=2, approximate=False)
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        assert sorted(ids(await take(subscription, 2))) == ["3", "4"]
        await until(lambda: "Gap" in events.kinds)
        assert sum(event.count or 0 for event in events if isinstance(event, Gap)) == 3


async def test_own_entries_that_were_trimmed_are_counted_after_a_reconnect(
    server: Broker, url: str, proxy: FaultProxy, name: Name
) -> None:
    queue, events = Queue(name("orders")), Events()
    async with opened(url) as driver, plain(server.url) as client:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        await driver.send(queue, [out("1", body=b"MARK"), out("2")])
        proxy.drop_reply(when=lambda chunk: b"MARK" in chunk)
        proxy.delay(0.5, from_broker=False)  # time to trim before anybody reads again
        receiving = asyncio.ensure_future(take(subscription, 1))
        await until(lambda: "Disconnected" in events.kinds)
        await client.xtrim(queue.name, maxlen=1, approximate=False)
        proxy.heal()
        assert ids(await receiving) == ["2"]
        assert Gap(1) in events


@pytest.mark.parametrize("deletion", ["FLUSHALL", "DEL", "XGROUP DESTROY"])
async def test_what_was_deleted_under_a_reader_is_made_anew_and_nothing_after_it_is_missed(
    server: Broker, name: Name, deletion: str
) -> None:
    if deletion == "FLUSHALL" and not server.ours:
        pytest.skip("needs a server that it may empty")
    queue, events = Queue(name("orders")), Events()
    async with opened(server.url) as driver, plain(server.url) as client:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        receiving = asyncio.ensure_future(take(subscription, 1, 30))
        await until(lambda: blocked(client))
        words = {"FLUSHALL": ["FLUSHALL"], "DEL": ["DEL", queue.name]}
        await client.execute_command(*words.get(deletion, ["XGROUP DESTROY", queue.name, "unibus"]))
        await client.xadd(queue.name, {"data": "first"})
        assert [delivery.body for delivery in await receiving] == [b"first"]
        await until(lambda: events.kinds == ["Disconnected", "Recreated", "Reconnected"])
        await driver.send(queue, [out("after")])


async def test_a_group_is_found_by_publishers_again_after_all_was_deleted(server: Broker, name: Name) -> None:
    group, topic, events = TopicSubscription((name("a.*"),), name("group")), Topic(name("a.b")), Events()
    async with opened(server.url) as driver, opened(server.url) as other, plain(server.url) as client:
        await driver.declare(Topology(create=(group,)))
        subscription = await driver.subscribe(group, prefetch=10, notify=events)
        await other.send(topic, [out("before")])
        await subscription.settle(await take(subscription, 1), Outcome.ACK)
        receiving = asyncio.ensure_future(take(subscription, 1, 30))
        await client.hdel("{unibus}.groups", f"{{unibus}}.group.{group.group}")
        await client.incr("{unibus}.version")
        await client.delete(f"{{unibus}}.group.{group.group}")
        await until(lambda: Recreated() in events)
        await other.send(topic, [out("after")])
        assert ids(await receiving) == ["after"]


async def test_a_registry_that_begins_anew_is_none_that_a_publisher_remembers(server: Broker, name: Name) -> None:
    if not server.ours:
        pytest.skip("needs a server whose registry it may delete")
    groups = [TopicSubscription((name("a"),), name(group)) for group in ("one", "two")]
    async with opened(server.url) as driver, opened(server.url) as publisher, plain(server.url) as client:
        for number, group in enumerate(groups):
            await client.delete("{unibus}.version", "{unibus}.groups")
            await driver.declare(Topology(create=(group,)))
            await publisher.send(Topic(name("a")), [out(str(number))])
            assert (await driver.depth(group)).ready == 1


async def test_a_group_that_only_the_registry_has_forgotten_is_registered_again(server: Broker, name: Name) -> None:
    group, topic = TopicSubscription((name("a.b"),), name("group")), Topic(name("a.b"))
    stream = f"{{unibus}}.group.{group.group}"
    async with opened(server.url + "?lease=1") as driver, plain(server.url) as client:
        await driver.declare(Topology(create=(group,)))
        subscription = await driver.subscribe(group, prefetch=10, notify=Events())
        await client.hdel("{unibus}.groups", stream)
        await client.incr("{unibus}.version")

        async def registered() -> bool:
            return bool(await client.hexists("{unibus}.groups", stream))

        await until(registered)
        await driver.send(topic, [out("1")])
        assert ids(await take(subscription, 1)) == ["1"]


async def test_a_long_handler_keeps_its_message_and_a_dead_one_does_not(server: Broker, name: Name) -> None:
    queue, events = Queue(name("orders")), Events()
    async with opened(server.url + "?lease=1") as first, opened(server.url + "?lease=1") as second:
        await first.declare(Topology(create=(queue,)))
        holder = await first.subscribe(queue, prefetch=10, notify=events)
        await first.send(queue, [out("kept"), out("left")])
        kept, left = await take(holder, 2)
        other = await second.subscribe(queue, prefetch=10, notify=Events())
        receiving = asyncio.ensure_future(take(other, 1))
        while not receiving.done():
            await holder.extend([kept], 1.0)  # type: ignore[attr-defined]
            await asyncio.wait({receiving}, timeout=0.2)
        taken = receiving.result()
        assert ids(taken) == ["left"]
        assert (taken[0].deliveries, taken[0].redelivered) == (2, True)
        assert [event.deliveries for event in events if isinstance(event, Lost)] == [[left]]
        with pytest.raises(SettlementLost):
            await holder.settle([left], Outcome.ACK)
        await holder.settle([kept], Outcome.ACK)
        await other.settle(taken, Outcome.ACK)
        assert (await first.depth(queue)).in_flight == 0


async def test_a_late_settlement_asks_the_server_who_holds_the_entry(server: Broker, name: Name) -> None:
    """Its lease has nearly ended by our clock, so somebody may have claimed it, as here."""
    queue = Queue(name("orders"))
    async with opened(server.url + "?lease=600") as driver, plain(server.url) as client:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=Events())
        await driver.send(queue, [out("1")])
        (delivery,) = await take(subscription, 1)
        await client.xclaim(queue.name, "unibus", "thief", 0, [delivery.token.id])
        delivery.token.expires = time.monotonic() + 1
        with pytest.raises(SettlementLost):
            await subscription.settle([delivery], Outcome.ACK)
        assert (await client.xpending(queue.name, "unibus"))["pending"] == 1, "it is the thief's"


async def test_cancelling_calls_harms_nobody_elses(server: Broker, name: Name) -> None:
    queue = Queue(name("orders"))
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=1000, notify=Events())
        for number in range(100):
            doomed = asyncio.ensure_future(driver.send(queue, [out("x", body=b"x" * 100_000)]))
            other = asyncio.ensure_future(driver.send(queue, [out(str(number))]))
            await asyncio.sleep(0 if number % 2 else 0.001)
            doomed.cancel()
            await other
            assert (await driver.depth(queue)).ready > number
        got = set[str]()
        while len(got - {"x"}) < 100:
            batch = await take(subscription, 1)
            got.update(ids(batch))
            await subscription.settle(batch, Outcome.ACK)


async def test_an_ephemeral_subscription_ends_with_its_subscriber(server: Broker, name: Name) -> None:
    topic = name("ticker")
    async with opened(server.url) as dead, opened(server.url) as driver, plain(server.url) as client:
        await dead.subscribe(TopicSubscription((topic,)), prefetch=10, notify=Events())

        async def streams() -> list[bytes]:
            groups = await client.hgetall("{unibus}.groups")
            return [stream for stream, text in groups.items() if topic in text.decode()]

        (stream,) = await streams()
        assert 0 < await client.pttl(stream) <= 60_000, "when nobody renews it, it ends by itself"
        await dead.vanish()
        await driver.send(Topic(topic), [out("1")])
        assert await client.xlen(stream) == 1
        await client.delete(stream)  # as its end does
        await driver.send(Topic(topic), [out("2")])
        assert not await client.exists(stream)
        assert not await streams()


async def test_consumers_that_died_long_ago_are_forgotten(newest: Broker, name: Name) -> None:
    from unibus_redis import scripts

    queue = Queue(name("orders"))
    async with opened(newest.url) as driver, plain(newest.url) as client:
        await driver.declare(Topology(create=(queue,)))
        await client.xgroup_createconsumer(queue.name, "unibus", "dead")
        await client.eval(scripts.SWEEP.text, 1, queue.name, 3_600_000)
        assert len(await client.xinfo_consumers(queue.name, "unibus")) == 1
        await asyncio.sleep(0.002)
        await client.eval(scripts.SWEEP.text, 1, queue.name, 0)
        assert not await client.xinfo_consumers(queue.name, "unibus")

"""Delayed messages: moved by anybody, once each, in pieces that may fail."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from tests.adapters.redis.conftest import Events, ids, opened, out, plain, take, until
from tests.brokers import Broker
from unibus.driver import Forwarding, Outcome, Queue, Subscription, TopicSubscription, Topology

Name = Callable[[str], str]


async def test_many_movers_deliver_each_message_once_and_none_early(server: Broker, name: Name) -> None:
    queue, count = Queue(name("orders")), 500
    async with opened(server.url) as driver, opened(server.url) as one, opened(server.url) as other:
        await driver.declare(Topology(create=(queue,)))
        subscriptions = [await each.subscribe(queue, prefetch=1000, notify=Events()) for each in (driver, one, other)]
        began = time.time()
        batch = [out(str(n), delay=0.5 + n % 5 * 0.1, headers={"h": "1"} if n % 2 else {}) for n in range(count)]
        for start in range(0, count, 250):
            await driver.send(queue, batch[start : start + 250])
        assert (await driver.depth(queue)).delayed == count
        came = dict[str, float]()
        seen = Counter[str]()

        async def consume(subscription: Subscription) -> None:
            while seen.total() < count:
                got = await subscription.receive(100, 0.2)
                seen.update(ids(got))
                came.update(dict.fromkeys(ids(got), time.time()))
                await subscription.settle(got, Outcome.ACK)

        async with asyncio.timeout(30):
            await asyncio.gather(*map(consume, subscriptions))
        assert set(seen.values()) == {1}
        assert len(seen) == count
        early = [n for n in range(count) if came[str(n)] < began + 0.5 + n % 5 * 0.1 - 0.002]
        assert not early
        assert (await driver.depth(queue)).delayed == 0


async def test_equal_messages_of_one_call_are_all_kept(server: Broker, name: Name) -> None:
    queue = Queue(name("orders"))
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out("same", delay=60) for _ in range(10)])
        await driver.send(queue, [out("same", delay=60) for _ in range(10)])
        assert (await driver.depth(queue)).delayed == 20


async def test_they_are_forwarded_though_nobody_consumes(server: Broker, name: Name) -> None:
    queue, group = Queue(name("orders")), TopicSubscription((name("a"),), name("group"))
    async with opened(server.url) as driver, opened(server.url) as forwarder:
        assert isinstance(forwarder, Forwarding)
        await driver.declare(Topology(create=(queue, group)))
        await driver.send(queue, [out("1", delay=0.3)])
        await driver.send(group, [out("2", delay=0.3, topic=name("a"))])
        forwarding = asyncio.ensure_future(forwarder.forward())

        async def there() -> bool:
            depths = [await driver.depth(source) for source in (queue, group)]
            return all((depth.ready, depth.delayed) == (1, 0) for depth in depths)

        await until(there)
        forwarding.cancel()
        await asyncio.wait({forwarding})


async def test_what_is_due_to_a_stream_that_was_deleted_waits_for_its_next_consumer(server: Broker, name: Name) -> None:
    queue = Queue(name("orders"))
    async with opened(server.url) as driver, opened(server.url) as forwarder, plain(server.url) as client:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out("1", delay=0.2)])
        await client.delete(queue.name)
        forwarding = asyncio.ensure_future(forwarder.forward())

        async def moved() -> bool:
            return bool(await client.exists(queue.name))

        await until(moved)
        forwarding.cancel()
        await asyncio.wait({forwarding})
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=Events())
        assert ids(await take(subscription, 1)) == ["1"]


async def test_a_call_may_mix_delays_and_none(server: Broker, name: Name) -> None:
    queue = Queue(name("orders"))
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=Events())
        await driver.send(queue, [out("1"), out("later", delay=0.5), out("2")])
        assert ids(await take(subscription, 3)) == ["1", "2", "later"]

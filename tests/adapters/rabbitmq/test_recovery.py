"""What goes away comes back: the connection, the channel, the consumer, the queue, the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.adapters.rabbitmq.conftest import opened, plain
from tests.adapters.rabbitmq.test_driver import out, take
from tests.brokers import Broker
from unibus import Bus
from unibus.driver import (
    Blocked,
    Delivery,
    Disconnected,
    DriverEvent,
    Gap,
    Lost,
    Outcome,
    Queue,
    Reconnected,
    Topic,
    TopicSubscription,
    Topology,
    Unblocked,
)
from unibus.errors import BatchError, NotSent, OutcomeUnknown, SettlementLost
from unibus.testing.proxy import FaultProxy


class Events(list[DriverEvent]):
    def __call__(self, event: DriverEvent) -> None:
        self.append(event)

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self]


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.01)


@pytest_asyncio.fixture
async def proxy(server: Broker) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture
def url(server: Broker, proxy: FaultProxy) -> str:
    return proxy.url(server.url)


async def test_a_cut_connection_is_told_restored_and_loses_nothing(
    url: str, proxy: FaultProxy, name: Callable[[str], str]
) -> None:
    queue, events = Queue(name("orders")), Events()
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(str(n)) for n in range(11)])
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        first = await take(subscription, 10)
        await subscription.settle(first[:1], Outcome.ACK)
        first += await take(subscription, 1)  # the broker has heard the ack
        proxy.cut()
        await until(lambda: "Reconnected" in events.kinds)
        assert events.kinds == ["Lost", "Disconnected", "Reconnected"]
        assert isinstance(events[0], Lost)
        assert events[0].deliveries == first[1:]
        with pytest.raises(SettlementLost) as stale:
            await subscription.settle(first, Outcome.ACK)
        assert stale.value.count == 10
        again = await take(subscription, 10)
        assert {delivery.message_id for delivery in again} == {str(n) for n in range(1, 11)}
        await subscription.settle(again, Outcome.ACK)
        await driver.send(queue, [out("after")])
        assert [delivery.message_id for delivery in await take(subscription, 1)] == ["after"]


async def test_a_publish_that_is_cut_off_is_unknown_and_one_that_cannot_leave_is_not_sent(
    url: str, proxy: FaultProxy, name: Callable[[str], str]
) -> None:
    queue = Queue(name("orders"))
    async with opened(url + "?publish_timeout=1") as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out("1")])
        dropped = proxy.drop_reply()
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, [out("2"), out("3")])
        assert dropped.is_set()
        assert [type(error) for error in failed.value.errors.values()] == [OutcomeUnknown] * 2
        proxy.cut(refuse=True)
        began = time.monotonic()
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, [out("4")])
        assert isinstance(failed.value.errors[0], NotSent)
        assert time.monotonic() - began < 5
        proxy.heal()
        await until(lambda: sent(driver_send=lambda: driver.send(queue, [out("5")])))


async def sent(driver_send: Callable[[], Awaitable[None]]) -> bool:
    try:
        await driver_send()
    except BatchError:
        return False
    return True


async def test_a_black_hole_is_unknown_within_the_deadline_and_is_left(
    url: str, proxy: FaultProxy, name: Callable[[str], str]
) -> None:
    queue, events = Queue(name("orders")), Events()
    async with opened(url + "?publish_timeout=1&heartbeat=2") as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        await driver.send(queue, [out("1")])
        held = await take(subscription, 1)
        proxy.freeze()
        began = time.monotonic()
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, [out("2")])
        assert isinstance(failed.value.errors[0], OutcomeUnknown)
        assert time.monotonic() - began < 3
        await until(lambda: "Disconnected" in events.kinds, 15)  # by our watchdog: nothing ends the socket
        proxy.heal()
        await until(lambda: "Reconnected" in events.kinds, 15)
        with pytest.raises(SettlementLost):
            await subscription.settle(held, Outcome.ACK)
        await driver.send(queue, [out("3")])
        got: set[str] = set()
        while "3" not in got:
            got |= {delivery.message_id for delivery in await take(subscription, 1)}
        assert got >= {"1", "3"}


async def test_a_deleted_queue_is_made_anew_by_who_made_it(server: Broker, name: Callable[[str], str]) -> None:
    queue, events = Queue(name("orders")), Events()
    async with opened(server.url) as driver, plain(server.url) as channel:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        await driver.send(queue, [out("1")])
        held = await take(subscription, 1)
        await channel.queue_delete(queue.name)
        await until(lambda: events.kinds[-2:] == ["Recreated", "Reconnected"])
        assert "Lost" not in events.kinds
        await subscription.settle(held, Outcome.ACK)  # what was in hand can be finished
        await driver.send(queue, [out("2"), out("3", delay=0.2)])
        assert [delivery.message_id for delivery in await take(subscription, 2)] == ["2", "3"]


async def test_a_deleted_queue_of_others_is_waited_for(server: Broker, name: Callable[[str], str]) -> None:
    queue, events = Queue("orders", physical=name("legacy")), Events()
    async with opened(server.url) as driver, plain(server.url) as channel:
        await channel.declare_queue(queue.physical or "")
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        await channel.queue_delete(queue.physical or "")
        await until(lambda: "Disconnected" in events.kinds)
        await asyncio.sleep(0.5)
        assert events.kinds == ["Disconnected"]
        await channel.declare_queue(queue.physical or "")
        await until(lambda: "Reconnected" in events.kinds)
        await driver.send(queue, [out("1")])
        await take(subscription, 1)
        await channel.queue_delete(queue.physical or "")


async def test_a_channel_that_the_broker_closes_is_replaced(server: Broker, name: Callable[[str], str]) -> None:
    queue, events = Queue(name("orders")), Events()
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        await driver.send(queue, [out("1")])
        held = await take(subscription, 1)
        assert held[0].token.channel._channel is not None
        await held[0].token.channel._channel.basic_ack(4711)  # a tag that the broker does not know
        await until(lambda: "Reconnected" in events.kinds)
        assert events.kinds == ["Lost", "Disconnected", "Reconnected"]
        assert [delivery.message_id for delivery in await take(subscription, 1)] == ["1"]


async def test_a_consumer_that_is_silently_gone_is_noticed(
    server: Broker, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unibus_rabbitmq.subscription.LOOK_EVERY", 0.3)
    queue, events = Queue(name("orders")), Events()
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        assert subscription._channel is not None
        await subscription._channel._channel.basic_cancel(subscription._channel.consumer)
        await driver.send(queue, [out("1")])
        got = None
        for _ in range(50):
            got = await subscription.receive(1, 0.2)
            if got:
                break
        assert got
        await until(lambda: "Reconnected" in events.kinds)
        assert events.kinds == ["Disconnected", "Reconnected"]


async def test_a_group_is_bound_again_when_the_exchange_of_topics_was_deleted(
    server: Broker, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not server.ours:
        pytest.skip("needs a server that nobody else uses")
    monkeypatch.setattr("unibus_rabbitmq.subscription.LOOK_EVERY", 0.3)
    source, topic = TopicSubscription((name("a.*"),), name("group")), Topic(name("a.b"))
    async with opened(server.url) as driver, opened(server.url) as other, plain(server.url) as channel:
        await driver.declare(Topology(create=(source,)))
        subscription = await driver.subscribe(source, prefetch=10, notify=Events())
        await other.send(topic, [out("1")])
        await take(subscription, 1)
        await channel.exchange_delete("unibus.topics")
        await until(lambda: sent(lambda: other.send(topic, [out("2")])))  # made anew, and nothing is bound to it
        got: list[Delivery] = []
        async with asyncio.timeout(30):
            while not got:
                got += await subscription.receive(1, 0.2)
                await other.send(topic, [out("3")])


async def test_a_process_of_an_older_release_leaves_the_newer_ones_patterns_alone(
    server: Broker, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unibus_rabbitmq.subscription.LOOK_EVERY", 0.05)
    group = name("group")
    old, new = TopicSubscription((name("a.*"),), group), TopicSubscription((name("a.*"), name("b.*")), group)
    async with opened(server.url) as first, opened(server.url) as second:
        await first.declare(Topology(create=(old,)))
        subscription = await first.subscribe(old, prefetch=10, notify=Events())
        await second.declare(Topology(create=(new,)))
        for _ in range(5):  # it looks after its bindings
            assert not await subscription.receive(1, 0.1)
        await second.send(Topic(name("b.c")), [out("1")])
        await take(subscription, 1)


async def test_an_ephemeral_subscriber_comes_back_and_says_that_it_was_away(
    url: str, proxy: FaultProxy, name: Callable[[str], str]
) -> None:
    source, events = TopicSubscription((name("a.*"),)), Events()
    async with opened(url) as driver:
        subscription = await driver.subscribe(source, prefetch=10, notify=events)
        proxy.cut()
        await until(lambda: "Reconnected" in events.kinds)
        assert events == [*events[:1], Gap(), Reconnected()]
        assert isinstance(events[0], Disconnected)
        await until(lambda: sent(lambda: driver.send(Topic(name("a.b")), [out("1")])))
        await take(subscription, 1)


async def test_a_broker_that_is_short_of_memory_is_told(newest: Broker, name: Callable[[str], str]) -> None:
    if not newest.ours:
        pytest.skip("needs a server that it may starve")
    queue, events = Queue(name("orders")), Events()
    async with opened(newest.url + "?publish_timeout=1") as driver:
        await driver.declare(Topology(create=(queue,)))
        subscription = await driver.subscribe(queue, prefetch=10, notify=events)
        await driver.send(queue, [out("1")])
        await asyncio.to_thread(newest.admin, "rabbitmqctl", "set_vm_memory_high_watermark", "0.000001")
        try:
            unknown = 0
            while unknown < 3:
                (failed,) = await asyncio.gather(driver.send(queue, [out("2")]), return_exceptions=True)
                if isinstance(failed, BatchError):
                    unknown += isinstance(failed.errors[0], OutcomeUnknown)
            assert any(isinstance(event, Blocked) for event in events)
            assert (await driver.depth(queue)).ready >= 0, "what is asked goes by the other connection"
        finally:
            await asyncio.to_thread(newest.admin, "rabbitmqctl", "set_vm_memory_high_watermark", "0.6")
        await until(lambda: any(isinstance(event, Unblocked) for event in events))
        await driver.send(queue, [out("3")])
        assert "Disconnected" not in events.kinds
        await take(subscription, 1)


async def test_a_restarted_server_loses_nothing_that_it_confirmed(newest: Broker, name: Callable[[str], str]) -> None:
    if not newest.ours:
        pytest.skip("needs a server that it may restart")
    queue, handled = name("orders"), set[int]()
    bus = Bus(newest.url)

    @bus.consumer(queue)
    async def handle(number: int) -> None:
        handled.add(number)

    confirmed: set[int] = set()

    async def send_some(start: int) -> None:
        for number in range(start, start + 100):
            outcome = (await asyncio.gather(bus.producer(queue).send(number), return_exceptions=True))[0]
            if isinstance(outcome, str):
                confirmed.add(number)

    async with bus.consuming():
        sending = asyncio.gather(*[send_some(100 * n) for n in range(10)])
        await asyncio.to_thread(newest.restart)
        await sending
        await until(lambda: confirmed <= handled)
    assert len(confirmed) >= 500

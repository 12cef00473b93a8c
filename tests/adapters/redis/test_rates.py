"""Rates that processes share: kept by all together, by no more than their due, and told when it fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.adapters.redis.conftest import plain, until
from tests.brokers import Broker
from unibus import Bus, rate_limit
from unibus.driver import SystemClock, Url
from unibus.errors import ConnectionLost, NotOpen
from unibus.rates import RateStore
from unibus.testing.proxy import FaultProxy
from unibus_redis.rates import connect_rates

Name = Callable[[str], str]


@pytest_asyncio.fixture
async def store(server: Broker) -> AsyncIterator[RateStore]:
    made: RateStore = connect_rates(Url(server.url), SystemClock())
    await made.open()
    try:
        yield made
    finally:
        await made.close()


async def test_so_many_at_once_and_then_it_is_told_when(store: RateStore, name: Name) -> None:
    assert await store.take(name("r"), 3, 5, 60.0, 5) == 0
    wait = await store.take(name("r"), 3, 5, 60.0, 5)
    assert 6 <= wait <= 12, "one more of three is free after 12 s, less what this took"
    assert await store.take(name("r"), 2, 5, 60.0, 5) == 0, "what was refused has taken nothing"
    assert await store.take(name("other"), 5, 5, 60.0, 5) == 0
    assert await store.take(name("r"), 5, 5, 30.0, 5) == 0, "another rate of that name is another limit"


async def test_what_lies_there_ends_by_itself(store: RateStore, server: Broker, name: Name) -> None:
    await store.take(name("r"), 1, 5, 2.0, 5)
    async with plain(server.url) as client:
        (key,) = await client.keys(f"*.rate.{name('r')}:*")
        assert key == b"{unibus}.rate." + name("r").encode() + b":5:2000:5"
        assert 0 < await client.pttl(key) <= 4000


async def test_a_server_that_forgets_its_scripts_is_taught_again(store: RateStore, server: Broker, name: Name) -> None:
    await store.take(name("r"), 1, 5, 60.0, 5)
    async with plain(server.url) as client:
        await client.script_flush()
    assert await store.take(name("r"), 4, 5, 60.0, 5) == 0
    assert await store.take(name("r"), 1, 5, 60.0, 5) > 0


async def test_of_many_who_ask_at_once_just_so_many_are_let_in(server: Broker, name: Name) -> None:
    stores = [connect_rates(Url(server.url), SystemClock()) for _ in range(4)]
    for store in stores:
        await store.open()
    try:
        asked = [store.take(name("r"), 1, 30, 3600.0, 30) for store in stores for _ in range(50)]
        answers = await asyncio.gather(*asked)
    finally:
        for store in stores:
            await store.close()
    assert answers.count(0.0) == 30


async def test_a_store_that_is_not_open_says_so() -> None:
    store = connect_rates(Url("redis://127.0.0.1"), SystemClock())
    with pytest.raises(NotOpen):
        await store.take("x", 1, 1, 1.0, 1)


async def test_two_processes_keep_one_limit_together(server: Broker, name: Name) -> None:
    began, shared = list[float](), name("shared")

    def limited() -> Bus:
        bus = Bus(server.url)

        @bus.consumer(name("calls"), prefetch=20)
        @rate_limit(20, per=1.0, store=server.url, name=shared)
        async def call(number: int) -> None:
            began.append(time.monotonic())

        return bus

    first, second = limited(), limited()
    async with first, second, first.consuming(), second.consuming():
        await first.producer(name("calls")).send_many(range(80))
        await until(lambda: len(began) == 80)
        stats = [bus.stats()[name("calls")] for bus in (first, second)]
    began.sort()
    # The first may have begun late after it was let in; twice the rate would end 1.5 s too early.
    assert all(at - began[0] >= (number - 19) / 20 - 0.5 for number, at in enumerate(began)), "over the rate"
    assert all(each.handled > 0 for each in stats)
    assert sum(each.retried + each.lost for each in stats) == 0


async def test_while_redis_is_away_messages_wait_and_none_is_lost(
    server: Broker, proxy: FaultProxy, name: Name
) -> None:
    bus, began = Bus(server.url), set[int]()

    @bus.consumer(name("calls"))
    @rate_limit(1000, per=1.0, store=proxy.url(server.url) + "?timeout=1")
    async def call(number: int) -> None:
        began.add(number)

    async with bus, bus.consuming():
        producer = bus.producer(name("calls"))
        await producer.send(0)
        await until(lambda: began == {0})
        proxy.cut(refuse=True)
        await producer.send_many(range(1, 50))
        await until(lambda: bus.stats()[name("calls")].rate_limited > 0)
        assert began == {0}
        proxy.heal()
        await until(lambda: began == set(range(50)))
        assert bus.stats()[name("calls")].retried == 0


async def test_a_store_that_cannot_be_reached_at_start_is_said() -> None:
    store = connect_rates(Url("redis://127.0.0.1:1?timeout=0.5"), SystemClock())
    with pytest.raises(ConnectionLost):
        await store.open()

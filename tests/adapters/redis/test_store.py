"""The idempotency store's protocol, on Redis and on the store in the process, which is its model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.adapters.redis.conftest import opened, plain, until
from tests.adapters.store_cases import StoreCases, claimed
from tests.brokers import Broker, broker
from unibus import Bus, Message, idempotent
from unibus.driver import Queue, SystemClock, Topology, Url
from unibus.errors import ConnectionLost, NotOpen
from unibus.idempotency.memory import MemoryStore
from unibus.idempotency.store import IdempotencyStore
from unibus.testing.proxy import FaultProxy
from unibus_redis import connect_store

Name = Callable[[str], str]


@pytest_asyncio.fixture(params=["memory", "redis", "redis-7"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[IdempotencyStore]:
    clock = SystemClock()
    made: IdempotencyStore = (
        MemoryStore(clock) if request.param == "memory" else connect_store(Url(broker(request.param).url), clock)
    )
    await made.open()
    try:
        yield made
    finally:
        await made.close()


class TestStore(StoreCases):
    """On each version, and in the process, which is the model of all."""


async def test_nothing_that_the_store_writes_stays_for_ever(server: Broker, name: Name) -> None:
    store = connect_store(Url(server.url), SystemClock())
    await store.open()
    await claimed(store, name("claimed"), "a")
    await store.complete([await claimed(store, name("done"), "a")], 60)
    async with plain(server.url) as client:
        left = [await client.ttl(key) async for key in client.scan_iter(f"*{name('')}*")]
    await store.close()
    assert len(left) == 2
    assert all(0 < seconds <= 24 * 3600 + 60 for seconds in left)


async def test_a_store_that_is_away_says_so_and_comes_back(server: Broker, url: str, proxy: FaultProxy) -> None:
    store = connect_store(Url(url + "?timeout=1"), SystemClock())
    with pytest.raises(NotOpen):
        await store.claim(["k"], "a", 1)
    proxy.cut(refuse=True)
    with pytest.raises(ConnectionLost):
        await store.open()
    proxy.heal()
    await store.open()
    proxy.cut(refuse=True)
    with pytest.raises(ConnectionLost):
        await store.claim(["k"], "a", 1)
    proxy.heal()

    async def back() -> bool:
        try:
            return bool(await store.claim(["k"], "a", 1))
        except ConnectionLost:
            return False

    await until(back)
    await store.close()


async def test_a_handler_with_a_store_by_url_has_one_effect_for_each_key(server: Broker, name: Name) -> None:
    buses, effects = [Bus(server.url), Bus(server.url)], list[str]()
    for bus in buses:

        @bus.consumer(name("orders"))
        @idempotent(key=lambda message: message.data, store=server.url)
        async def handle(order: str, message: Message[str]) -> None:
            effects.append(order)

    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(Queue(name("orders")),)))
    async with buses[0], buses[1], buses[0].consuming(), buses[1].consuming():
        await buses[0].producer(name("orders")).send_many([f"{name('o')}-{n % 20}" for n in range(200)])

        async def all_settled() -> bool:
            depth = await buses[0].depth(name("orders"))
            return depth.ready == 0 and depth.in_flight == 0

        await until(all_settled)
    assert sorted(effects) == sorted(f"{name('o')}-{n}" for n in range(20))

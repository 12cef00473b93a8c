"""What a server over a network does, and two processes on it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from tests.adapters.sql.conftest import Effects, opened
from tests.adapters.store_cases import claimed, until
from tests.brokers import broker
from unibus import Bus, Message, constant, idempotent, retry
from unibus.clock import SystemClock
from unibus.driver import Url
from unibus.errors import AccessDenied, ConnectionLost
from unibus.idempotency.store import Done, InProgress, New
from unibus.testing.proxy import FaultProxy
from unibus_sql import METADATA, SqlStore, connect_store

Name = Callable[[str], str]


@pytest.fixture(params=["asyncpg", "psycopg"])
def url(request: pytest.FixtureRequest) -> str:
    return broker("postgresql").url.replace("asyncpg", request.param)


@pytest_asyncio.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    server = broker("postgresql")
    async with FaultProxy(server.host, server.port) as proxy:
        yield proxy


async def test_nobody_waits_for_a_transaction_that_has_the_key(url: str, name: Name) -> None:
    async with opened(url) as one, opened(url) as other:
        async with one.transaction([name("a"), name("b")], 60) as first:
            async with other.transaction([name("b"), name("c")], 60) as second:
                assert [type(claim) for claim in second.claims] == [InProgress, New]
                await second.commit()
            await first.commit()
        async with other.transaction([name("a"), name("b"), name("c")], 60) as third:
            assert third.claims == [Done()] * 3


async def test_a_store_that_is_away_says_so_and_comes_back(url: str, proxy: FaultProxy, name: Name) -> None:
    store = connect_store(Url(f"{proxy.url(url)}?timeout=1"), SystemClock())
    proxy.cut(refuse=True)
    with pytest.raises(ConnectionLost):
        await store.open()
    proxy.heal()
    await store.open()
    held = await claimed(store, name("k"), "a")
    faults: list[Callable[[], None]] = [partial(proxy.cut, refuse=True), proxy.freeze]
    for fault in faults:
        fault()
        with pytest.raises(ConnectionLost):
            await store.renew([held], 60)
        with pytest.raises(ConnectionLost):
            async with store.transaction([name("t")], 60):
                pass
        proxy.heal()

        async def back() -> bool:
            try:
                return await store.renew([held], 60) == [True]
            except ConnectionLost:
                return False

        await until(back)
    await store.close()


async def test_a_commit_without_an_answer(url: str, proxy: FaultProxy, effects: Effects, name: Name) -> None:
    """It was kept, which the message's key tells when it comes again."""
    bus, attempts = Bus("memory://"), list[int]()

    @bus.consumer("orders")
    @idempotent(store=f"{proxy.url(url)}?timeout=2")
    async def handle(order: str, message: Message[str], session: AsyncSession) -> None:
        attempts.append(message.attempt)
        await session.execute(effects.table.insert().values(what=order))

    async with bus, bus.consuming():
        lost = proxy.drop_reply(when=lambda chunk: b"COMMIT\0" in chunk)
        await bus.producer("orders").send("one", id=name("id"))
        await asyncio.wait_for(lost.wait(), 20)

        async def passed_over() -> bool:
            return bus.stats()["orders"].skipped == 1

        await until(passed_over)
    assert await effects.all() == ["one"]
    assert attempts == [1]


@pytest.mark.parametrize("url", ["asyncpg"], indirect=True)
async def test_a_server_that_is_killed_amid_the_work(effects: Effects, engine: AsyncEngine, name: Name) -> None:
    server = broker("postgresql")
    if not server.ours:
        pytest.skip("needs a server that it may kill")
    bus, orders = Bus("memory://"), [name(f"o{number:03d}") for number in range(100)]

    @bus.consumer("orders", concurrency=10)
    @idempotent(key=lambda message: message.data, store=server.url)
    @retry(on=Exception, attempts=100, backoff=constant(0.3))
    async def handle(order: str, session: AsyncSession) -> None:
        await session.execute(effects.table.insert().values(what=order))
        await asyncio.sleep(0.05)

    async with bus, bus.consuming():
        await bus.producer("orders").send_many(orders * 2)

        async def some() -> bool:
            return bus.stats()["orders"].handled > 20

        await until(some)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)

        async def all_settled() -> bool:
            depth = await bus.depth("orders")
            return depth.ready == 0 and depth.in_flight == 0

        await until(all_settled, 60)
    await engine.dispose()  # what it had open is gone
    assert await effects.all() == orders


async def test_who_may_not_create_the_table_is_told_where_its_ddl_is(url: str) -> None:
    user, schema = (f"{what}_{uuid.uuid4().hex[:8]}" for what in ("user", "schema"))
    admin = create_async_engine(url)
    async with admin.begin() as connection:
        for words in (
            f"CREATE ROLE {user} LOGIN",
            f"CREATE SCHEMA {schema}",
            f"GRANT USAGE ON SCHEMA {schema} TO {user}",
        ):
            await connection.execute(text(words))
        await connection.execute(text(f"ALTER ROLE {user} SET search_path = {schema}"))
    mine = url.replace("postgres@", f"{user}@")
    with pytest.raises(AccessDenied, match="README"):
        await connect_store(Url(mine), SystemClock()).open()
    async with admin.begin() as connection:
        await connection.execute(text(f"SET search_path = {schema}"))
        await connection.run_sync(METADATA.create_all)
        await connection.execute(text(f"GRANT SELECT, INSERT, UPDATE, DELETE ON unibus_idempotency TO {user}"))
        await connection.execute(text(f"GRANT USAGE ON SEQUENCE unibus_idempotency_fence TO {user}"))
    async with opened(mine) as store:
        held = await claimed(store, "k", "a")
        assert await store.complete([held], 60) == [True]
        async with store.transaction(["t"], 60) as transaction:
            await transaction.commit(["t"])
    async with admin.begin() as connection:
        await connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
        await connection.execute(text(f"DROP ROLE {user}"))
    await admin.dispose()


async def test_keys_of_many_processes_at_once(url: str, effects: Effects, name: Name) -> None:
    """Stores of their own, as processes have them, and every key in each."""
    keys = [name(f"k{number}") for number in range(30)]

    async def process(number: int) -> None:
        async with opened(url) as store:
            await asyncio.gather(*[handle(store, key) for key in keys[number:] + keys[:number]])

    async def handle(store: SqlStore, key: str) -> None:
        while True:
            async with store.transaction([key], 60) as transaction:
                (claim,) = transaction.claims
                if isinstance(claim, Done):
                    return
                if isinstance(claim, New):
                    await transaction.resource.execute(effects.table.insert().values(what=key))
                    await transaction.commit()
                    return
            await asyncio.sleep(0)

    await asyncio.gather(*[process(number) for number in range(4)])
    assert await effects.all() == sorted(keys)

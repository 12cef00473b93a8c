"""The store's protocol, and what only a database does."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.adapters.sql.conftest import Effects, opened
from tests.adapters.store_cases import StoreCases, claimed, until
from unibus.clock import SystemClock
from unibus.driver import Url
from unibus.errors import ConfigurationError, ConnectionLost, DestinationNotFound, NotOpen
from unibus.idempotency.store import Done, Held, InProgress, New
from unibus.idempotency.transaction import TransactionalStore
from unibus.testing import MovableClock
from unibus_sql import KEYS, SqlStore, connect_store
from unibus_sql.store import SWEEP_EVERY

Name = Callable[[str], str]


class TestStore(StoreCases):
    """As on all other stores."""


async def test_stores_that_open_at_once_make_one_table(url: str) -> None:
    stores = [connect_store(Url(url), SystemClock()) for _ in range(5)]
    await asyncio.gather(*[store.open() for store in stores])
    await asyncio.gather(*[store.close() for store in stores])


async def test_batches_that_overlap_in_another_order_wait_for_nobody(url: str, name: Name) -> None:
    """Ten times as many keys as needed to meet; a deadlock would be an error of the database."""
    keys = [name(f"k{number}") for number in range(100)]
    async with opened(url) as one, opened(url) as other:
        for _ in range(10):
            answers = await asyncio.gather(one.claim(keys, "one", 60), other.claim(keys[::-1], "other", 60))
            ours = [Held(key, "one", a.fence) for key, a in zip(keys, answers[0], strict=True) if isinstance(a, New)]
            theirs = [
                Held(key, "other", a.fence) for key, a in zip(keys[::-1], answers[1], strict=True) if isinstance(a, New)
            ]
            assert sorted(held.key for held in ours + theirs) == sorted(keys)
            await asyncio.gather(one.renew(ours, 60), one.renew(ours[::-1], 60), other.renew(theirs[::-1], 60))
            assert all(await one.release(ours)), "ours"
            assert all(await other.release(theirs)), "theirs"


@pytest.mark.parametrize("odd", ["", "nul \0 in it", "x" * 5000, "\ud800", "snow ☃", "a'b\"c\\d:e%f"])
async def test_any_text_is_a_key(store: SqlStore, name: Name, odd: str) -> None:
    one, other = name("") + odd, name("") + odd + "2"
    await store.complete([await claimed(store, one, "a")], 60)
    assert await store.claim([one], "b", 60) == [Done()]
    assert isinstance((await store.claim([other], "b", 60))[0], New)


async def test_what_is_over_is_swept_and_the_rest_is_not(url: str, engine: AsyncEngine, name: Name) -> None:
    clock = MovableClock()
    store = connect_store(Url(url), clock)
    await store.open()
    await store.complete([await claimed(store, name("over"), "a")], 0.001)
    lapsed = await claimed(store, name("lapsed"), "a", 0.001)
    await store.complete([await claimed(store, name("done"), "a")], 60)
    await clock.advance(SWEEP_EVERY + 1)
    kept = {name("lapsed"), name("done"), name("next")}

    async def swept() -> bool:
        await store.claim([name("next")], "a", 60)
        await clock.advance(SWEEP_EVERY + 1)
        async with engine.connect() as connection:
            rows = await connection.execute(KEYS.select().where(KEYS.c.key.startswith(name(""))))
            return {row.key for row in rows} == kept

    await until(swept)
    assert await store.complete([lapsed], 60) == [True], "its owner may still speak"
    await store.close()


async def test_a_store_that_is_not_open_says_so(url: str) -> None:
    store = connect_store(Url(url), SystemClock())
    with pytest.raises(NotOpen):
        await store.claim(["k"], "a", 1)
    with pytest.raises(NotOpen):
        async with store.transaction(["k"], 1):
            pass


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ("sqlite+aiosqlite://", ConfigurationError, "names no file"),
        ("sqlite+aiosqlite:///:memory:", ConfigurationError, "names no file"),
        ("sqlite+aiosqlite:///x.db?ssl=require", ConfigurationError, "has no ssl"),
        ("sqlite+aiosqlite:///x.db?pol=3", ConfigurationError, "did you mean 'pool'"),
        ("sqlite+aiosqlite:////no/such/folder/x.db", DestinationNotFound, "its folder"),
        ("postgresql+asyncpg://u:canary@a:1,b:2/x", ConfigurationError, "several hosts"),
        ("postgresql+asyncpg://u:canary@127.0.0.1:1/x?timeout=5", ConnectionLost, "127.0.0.1:1/x"),
    ],
)
async def test_a_wrong_url_says_what_is_wrong(wrong: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says) as raised:
        await connect_store(Url(wrong), SystemClock()).open()
    assert "canary" not in str(raised.value)
    await until(no_threads_of_aiosqlite)


async def no_threads_of_aiosqlite() -> bool:
    """One whose connection failed ends by itself, with a last word to the loop: which must not be closed before."""
    return not any("_connection_worker_thread" in thread.name for thread in threading.enumerate())


async def test_an_engine_of_ones_own_stays_open(engine: AsyncEngine, effects: Effects, name: Name) -> None:
    store = SqlStore(engine)
    protocol: TransactionalStore = store
    assert isinstance(protocol, TransactionalStore)
    await store.open()
    async with store.transaction([name("k")], 60) as transaction:
        await transaction.resource.execute(effects.table.insert().values(what="mine"))
        await transaction.commit()
    await store.close()
    assert await effects.all() == ["mine"]


# --- transactions -----------------------------------------------------------------------------------


async def test_effect_and_key_are_kept_both_or_neither(store: SqlStore, effects: Effects, name: Name) -> None:
    for committed in (False, True):
        async with store.transaction([name("k")], 60) as transaction:
            assert isinstance(transaction.claims[0], New)
            await transaction.resource.execute(effects.table.insert().values(what=f"committed: {committed}"))
            if committed:
                await transaction.commit()
    async with store.transaction([name("k")], 60) as transaction:
        assert transaction.claims == [Done()]
    assert await store.claim([name("k")], "a", 60) == [Done()], "to both forms of it"
    assert await effects.all() == ["committed: True"]


async def test_what_a_handler_commits_and_undoes_by_itself_stays_within(
    store: SqlStore, effects: Effects, name: Name
) -> None:
    async with store.transaction([name("undone")], 60) as transaction:
        await transaction.resource.execute(effects.table.insert().values(what="undone"))
        await transaction.resource.commit()
    async with store.transaction([name("kept")], 60) as transaction:
        await transaction.resource.execute(effects.table.insert().values(what="rolled back"))
        await transaction.resource.rollback()
        await transaction.resource.execute(effects.table.insert().values(what="kept"))
        await transaction.commit()
    assert isinstance((await store.claim([name("undone")], "a", 60))[0], New)
    assert await store.claim([name("kept")], "a", 60) == [Done()]
    assert await effects.all() == ["kept"]


async def test_a_key_may_be_left_out_at_the_end(store: SqlStore, name: Name) -> None:
    async with store.transaction([name("one"), name("two")], 60) as transaction:
        await transaction.commit([name("two")])
    assert [type(claim) for claim in await store.claim([name("one"), name("two")], "a", 60)] == [Done, New]


async def test_a_claim_holds_the_key_against_a_transaction_until_it_lapses(store: SqlStore, name: Name) -> None:
    await claimed(store, name("k"), "a", 60)
    lapsing = await claimed(store, name("lapsing"), "a", 0.001)
    async with store.transaction([name("k")], 60) as transaction:
        assert isinstance(transaction.claims[0], InProgress)

    async def taken() -> bool:
        async with store.transaction([name("lapsing")], 60) as transaction:
            await transaction.commit()
            return isinstance(transaction.claims[0], New)

    await until(taken)
    assert await store.complete([lapsing], 60) == [False]


async def test_what_the_database_refuses_at_the_end_is_said_in_its_own_words(
    store: SqlStore, effects: Effects, name: Name
) -> None:
    """It is the handler's failure, not the store's."""
    async with store.transaction([name("k")], 60) as transaction:
        await transaction.resource.execute(effects.table.insert().values(id=1, what="first"))
        transaction.resource.add(effects.row(id=1, what="second"))  # written at the commit
        with pytest.raises(IntegrityError, match=r"(?i)unique"):
            await transaction.commit()
    assert isinstance((await store.claim([name("k")], "a", 60))[0], New)
    assert await effects.all() == []


async def test_many_transactions_at_once_are_in_each_others_way_only_by_a_key(url: str, name: Name) -> None:
    async with opened(f"{url}?pool=20") as store:

        async def once(number: int) -> str:
            async with store.transaction([name(f"k{number % 10}")], 60) as transaction:
                if isinstance(transaction.claims[0], New):
                    await transaction.commit()
                return type(transaction.claims[0]).__name__

        found = await asyncio.gather(*[once(number) for number in range(100)])
    assert found.count("New") == 10


async def test_cancelled_within_it_undoes_and_gives_the_connection_back(url: str, effects: Effects, name: Name) -> None:
    async with opened(f"{url}?pool=1") as store:
        begun = asyncio.Event()

        async def act() -> None:
            async with store.transaction([name("k")], 60) as transaction:
                await transaction.resource.execute(effects.table.insert().values(what="never"))
                begun.set()
                await asyncio.Event().wait()

        for _ in range(3):
            begun.clear()
            acting = asyncio.create_task(act())
            await begun.wait()
            acting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await acting
        async with store.transaction([name("k")], 60) as transaction:
            assert isinstance(transaction.claims[0], New)
    assert await effects.all() == []


DIES = """
import asyncio, os, signal, sys
from sqlalchemy import text
from unibus.driver import SystemClock, Url
from unibus_sql import connect_store

async def main(url, key, table):
    store = connect_store(Url(url), SystemClock())
    await store.open()
    async with store.transaction([key], 60) as transaction:
        await transaction.resource.execute(text(f"INSERT INTO {table} (what) VALUES ('never')"))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_that_is_killed_within_it_leaves_nothing(
    url: str, store: SqlStore, effects: Effects, name: Name
) -> None:
    dying = await asyncio.create_subprocess_exec(sys.executable, "-c", DIES, url, name("k"), effects.table.name)
    assert await dying.wait() == -signal.SIGKILL

    async def free() -> bool:
        async with store.transaction([name("k")], 60) as transaction:
            return isinstance(transaction.claims[0], New)

    await until(free)
    assert await effects.all() == []


async def test_sqlite_has_one_writer_and_says_when_another_process_writes_for_too_long(
    tmp_path_factory: pytest.TempPathFactory, name: Name
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('busy')}/keys.db"
    async with engine_at(url) as other, opened(f"{url}?timeout=0.3") as store:
        await is_told_of_the_writer(other, store, name("k"))


async def test_it_is_the_same_if_the_store_s_own_time_ends_before_sqlite_s(
    tmp_path_factory: pytest.TempPathFactory, name: Name
) -> None:
    """As on a machine under load, whatever SQLite was told."""
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('busy')}/keys.db"
    async with engine_at(url) as other, engine_at(url, connect_args={"timeout": 1.5}) as engine:
        store = SqlStore(engine, timeout=0.3)
        await store.open()
        await is_told_of_the_writer(other, store, name("k"), "no answer within 0.3 s")
        async with other.connect() as connection:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            with pytest.raises(ConnectionLost, match=r"opening the store .* another process is writing"):
                await store.open()
        await store.close()


async def is_told_of_the_writer(other: AsyncEngine, store: SqlStore, key: str, says: str = "") -> None:
    async with other.connect() as connection:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(ConnectionLost, match=f"{says}.*another process is writing"):
            await store.claim([key], "a", 60)
    assert isinstance((await store.claim([key], "a", 60))[0], New)


@asynccontextmanager
async def engine_at(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    """Closed whatever happens: a connection left open would be blamed on a later test."""
    engine = create_async_engine(url, **options)
    try:
        yield engine
    finally:
        await engine.dispose()

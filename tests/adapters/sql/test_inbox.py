"""Handlers that take an AsyncSession: on the memory broker, in real databases."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tests.adapters.sql.conftest import Effects
from tests.adapters.store_cases import until
from unibus import Bus, Message, constant, idempotent, retry
from unibus.testing import app
from unibus_sql import SqlStore

Name = Callable[[str], str]


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders_of_tests"

    id: Mapped[str] = mapped_column(primary_key=True)


async def settled(bus: Bus, name: str, count: int) -> None:
    async def done() -> bool:
        stats = bus.stats()[name]
        return stats.handled + stats.skipped >= count

    await until(done)


async def test_half_of_them_duplicates_and_a_third_of_the_runs_fail(url: str, effects: Effects, name: Name) -> None:
    bus, chances = Bus("memory://"), random.Random(1)

    @bus.consumer(name("orders"), concurrency=20)
    @idempotent(key=lambda message: message.data, store=url)
    @retry(on=ConnectionError, attempts=100, backoff=constant(0.01))
    async def handle(order: str, session: AsyncSession) -> None:
        await session.execute(effects.table.insert().values(what=order))
        if chances.random() < 0.33:
            raise ConnectionError

    orders = [name(f"o{number:03d}") for number in range(100)]
    async with bus.consuming():
        await bus.producer(name("orders")).send_many(orders * 2)
        await settled(bus, name("orders"), 200)
    assert await effects.all() == orders


async def test_a_batch_is_one_transaction(url: str, effects: Effects, name: Name) -> None:
    bus, runs = Bus("memory://"), list[int]()

    @bus.consumer(name("orders"), max_batch=50, max_wait=0.05)
    @idempotent(key=lambda message: message.data, store=url)
    @retry(on=ConnectionError, attempts=100, backoff=constant(0.01))
    async def handle(messages: list[Message[str]], session: AsyncSession) -> None:
        runs.append(len(messages))
        await session.execute(effects.table.insert(), [{"what": message.data} for message in messages])
        if len(runs) == 1:
            raise ConnectionError

    orders = [name(f"o{number:03d}") for number in range(100)]
    async with bus.consuming():
        await bus.producer(name("orders")).send_many(orders * 2)
        await settled(bus, name("orders"), 200)
    assert await effects.all() == orders
    assert max(runs) > 10


async def test_objects_that_are_only_added_are_written_at_the_end(url: str, engine: AsyncEngine, name: Name) -> None:
    """What the database refuses then is the handler's failure, and so judged by its policy."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    bus = Bus("memory://")

    @bus.consumer("orders")
    @idempotent(store=url)
    @retry(on=IntegrityError, attempts=2, backoff=constant(5))
    async def handle(order: str, session: AsyncSession) -> None:
        session.add(Order(id=order))

    async with app(bus) as t:
        await t.send("orders", name("one"))
        await t.settled()
        await t.send("orders", name("one"))  # another message with another key
        await t.settled()
        (dead,) = t.dead_letters("orders")
        assert dead.dead_letter is not None
        assert dead.dead_letter.attempts == 2
        assert "IntegrityError" in dead.dead_letter.reason
        assert "parameters: " not in dead.dead_letter.reason, "data stays out of what SQLAlchemy says"
    async with AsyncSession(engine) as session:
        assert await session.get(Order, name("one")) is not None


async def test_a_refusal_that_the_handler_takes_for_an_answer(url: str, engine: AsyncEngine, name: Name) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    bus = Bus("memory://")

    @bus.consumer("orders")
    @idempotent(store=url)
    async def handle(order: str, session: AsyncSession) -> None:
        try:
            session.add(Order(id=order))
            await session.flush()
        except IntegrityError:
            await session.rollback()  # it is there already

    async with app(bus) as t:
        for _ in range(2):
            await t.send("orders", name("one"), id=name("same"))
            await t.send("orders", name("one"))
        await t.settled()
        assert t.dead_letters("orders") == []
        assert (bus.stats()["orders"].handled, bus.stats()["orders"].skipped) == (3, 1)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "not kept"])
async def test_a_connection_that_is_lost_at_the_commit(
    engine: AsyncEngine, effects: Effects, name: Name, kept: bool
) -> None:
    """Nobody knows what has become of it, until the message comes again: its key tells."""
    losing = [name("lost")]
    bus, attempts = Bus("memory://"), list[int]()

    def lose(connection: object) -> None:
        if losing and armed:
            losing.pop()
            if kept:
                connection.connection.dbapi_connection.commit()  # type: ignore[attr-defined]
            raise OSError("the network is gone")

    armed = list[bool]()
    sync_engine: Engine = engine.sync_engine
    event.listen(sync_engine, "commit", lose)

    @bus.consumer("orders")
    @idempotent(store=SqlStore(engine))
    async def handle(order: str, message: Message[str], session: AsyncSession) -> None:
        attempts.append(message.attempt)
        await session.execute(effects.table.insert().values(what=order))
        armed.append(True)

    async with app(bus) as t:
        await t.send("orders", "one", id=name("id"))
        await t.settled()
        assert t.dead_letters("orders") == []
    assert await effects.all() == ["one"]
    assert attempts == ([1] if kept else [1, 1])


async def test_a_handler_that_stops_with_its_bus_leaves_nothing(url: str, effects: Effects, name: Name) -> None:
    bus, begun = Bus("memory://", grace=0.1), asyncio.Event()

    @bus.consumer(name("orders"))
    @idempotent(store=url)
    async def handle(order: str, session: AsyncSession) -> None:
        await session.execute(effects.table.insert().values(what=order))
        begun.set()
        await asyncio.Event().wait()

    async with bus.consuming():
        await bus.producer(name("orders")).send("one")
        await begun.wait()
    assert await effects.all() == []

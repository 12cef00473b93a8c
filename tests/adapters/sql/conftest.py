"""Databases, stores in them, and names that one test alone uses."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import registry

from tests.brokers import broker
from unibus.driver import SystemClock, Url
from unibus_sql import SqlStore, connect_store

DATABASES = ["sqlite", "postgresql", "postgresql by psycopg"]


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of each database in turn."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path}/keys.db"
    url = broker("postgresql").url
    return url.replace("+asyncpg", "+psycopg") if request.param.endswith("psycopg") else url


@pytest.fixture
def name() -> Callable[[str], str]:
    prefix = f"t{uuid.uuid4().hex[:8]}"
    return lambda word: f"{prefix}.{word}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    made = connect_store(Url(url), SystemClock())
    try:
        await made.open()
        yield made
    finally:
        await made.close()


@pytest_asyncio.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    async with opened(url) as made:
        yield made


@pytest_asyncio.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    """What a program without unibus uses."""
    engine = create_async_engine(url)
    yield engine
    await engine.dispose()


class Effects:
    """A table of a test's own."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        name = f"effects_{uuid.uuid4().hex[:8]}"
        self.table = Table(name, MetaData(), Column("id", Integer, primary_key=True), Column("what", String))

        self.row: Any = type("Row", (), {})
        registry().map_imperatively(self.row, self.table)

    async def all(self) -> list[str]:
        async with self.engine.connect() as connection:
            return sorted(row.what for row in await connection.execute(self.table.select()))


@pytest_asyncio.fixture
async def effects(engine: AsyncEngine) -> AsyncIterator[Effects]:
    made = Effects(engine)
    async with engine.begin() as connection:
        await connection.run_sync(made.table.create)
    yield made
    async with engine.begin() as connection:
        await connection.run_sync(made.table.drop)

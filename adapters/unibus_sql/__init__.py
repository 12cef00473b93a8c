"""Idempotency keys in a SQL database, also within a handler's transaction: PostgreSQL and SQLite, by SQLAlchemy."""

from __future__ import annotations

from unibus.driver import Clock, Url
from unibus_sql.options import made
from unibus_sql.store import SqlStore
from unibus_sql.tables import KEYS, METADATA

__all__ = ["KEYS", "METADATA", "SqlStore", "connect_store"]


def connect_store(url: Url, clock: Clock) -> SqlStore:
    """For `sqlite+aiosqlite`, `postgresql+asyncpg` and `postgresql+psycopg`."""
    options, engine = made(url)
    return SqlStore(engine, clock=clock, transactions=options.pool, timeout=options.timeout, owned=True)

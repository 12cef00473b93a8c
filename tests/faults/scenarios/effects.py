"""Consumers are killed while they write to a database, and each message comes twice."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.brokers import broker
from tests.faults.consuming import Written
from tests.faults.run import SHARE, Run
from tests.faults.scenarios.consumers import kill_one, untold

COUNT = 5000
"""Of which each is sent twice: half of all that comes is a duplicate."""
KILLS = 4
LASTS = 12.0
"""Seconds that handlers alone would keep the consumers busy, where a death is noticed at once."""
QUIET = 8.0
"""Longer than a message waits for a key that another process has, before it looks again."""


async def killed_with_inbox(run: Run) -> None:
    """Key and row are one transaction: exactly one row a message, whenever a process dies."""
    database = f"{broker('postgresql').url}?pool={SHARE}"
    async with run.of(f"consumer kill -9 x{KILLS}, half duplicates, inbox"):
        await _killed(run, database, database, extra=0)


async def killed_with_claims(run: Run) -> None:
    """Keys in another database: a row more for each handler that a kill has hit, at most."""
    async with run.of(f"consumer kill -9 x{KILLS}, half duplicates, claims"):
        await _killed(run, broker("postgresql").url, broker("redis").url, extra=KILLS * SHARE)


async def _killed(run: Run, database: str, keys: str, *, extra: int) -> None:
    run.at_least(COUNT)
    lasts = LASTS + KILLS * (run.bounds.silence or 0.0)
    async with _table(database.partition("?")[0]) as (engine, table):
        await run.publish(times=2)
        await run.until_share("confirmed", 0.5)
        await run.consume(work=run.work(lasts), written=Written(database=database, table=table, keys=keys))
        for _ in range(KILLS):
            await kill_one(run)
        books = await run.finished(quiet=QUIET)
        async with engine.connect() as connection:
            rows = await connection.execute(text(f"SELECT id FROM {table}"))
            books.effects = Counter(row.id for row in rows)
    hit = [] if len(run.recoveries) >= KILLS // 2 else [f"only {len(run.recoveries)} kills hit a first run"]
    duplicates = KILLS * SHARE + untold(run)
    run.judge(books, duplicates=duplicates, extra_effects=extra, recovery=5 * lasts, also=hit)


@asynccontextmanager
async def _table(database: str) -> AsyncIterator[tuple[AsyncEngine, str]]:
    """Without a constraint: it takes what it is given, and so tells."""
    engine, table = create_async_engine(database), f"effects_{uuid.uuid4().hex[:8]}"
    try:
        async with engine.begin() as connection:
            await connection.execute(text(f"CREATE TABLE {table} (id text NOT NULL)"))
        yield engine, table
        async with engine.begin() as connection:
            await connection.execute(text(f"DROP TABLE {table}"))
    finally:
        await engine.dispose()

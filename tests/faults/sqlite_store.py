"""An idempotency store in one file, for the processes of one machine."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from unibus.idempotency.store import Claim, Done, Held, InProgress, New

BUSY = 30.0
"""Seconds to wait for another process's transaction."""

TABLE = """
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    fence INTEGER NOT NULL,
    until REAL NOT NULL,
    done INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID
"""
FENCE = "CREATE TABLE IF NOT EXISTS fence (latest INTEGER NOT NULL)"

Answer = TypeVar("Answer")


class SqliteStore:
    """Implements IdempotencyStore. Each call is one transaction, made in the one thread that has the connection.

    Time is the machine's monotonic clock: its processes share it, and nobody sets it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread: ThreadPoolExecutor
        self._database: sqlite3.Connection

    async def open(self) -> None:
        self._thread = ThreadPoolExecutor(1, "sqlite idempotency store")
        await self._in_thread(self._connect)

    async def close(self) -> None:
        await self._in_thread(self._disconnect)
        self._thread.shutdown(wait=False)

    async def claim(self, keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        def claim(now: float) -> list[Claim]:
            return [self._claim(key, owner, lease, now) for key in keys]

        return await self._transaction(claim)

    async def complete(self, items: Sequence[Held], ttl: float) -> Sequence[bool]:
        return await self._update(items, "UPDATE claims SET done = 1, until = :until", ttl)

    async def release(self, items: Sequence[Held]) -> Sequence[bool]:
        return await self._update(items, "DELETE FROM claims", 0.0)

    async def renew(self, items: Sequence[Held], lease: float) -> Sequence[bool]:
        return await self._update(items, "UPDATE claims SET until = :until", lease)

    # --- in the thread ----------------------------------------------------------------------------

    def _connect(self) -> None:
        self._database = sqlite3.connect(self._path, timeout=BUSY, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        # Survives the death of processes, which is all that is asked here; that of the machine it may not.
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute(TABLE)
        self._database.execute(FENCE)
        self._database.execute("INSERT INTO fence SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM fence)")
        self._database.execute("COMMIT")

    def _disconnect(self) -> None:
        self._database.close()

    def _claim(self, key: str, owner: str, lease: float, now: float) -> Claim:
        row = self._database.execute("SELECT owner, until, done FROM claims WHERE key = ?", (key,)).fetchone()
        if row is not None:
            other, until, done = row
            if until > now and (done or other != owner):
                return Done() if done else InProgress(other, until - now)
        self._database.execute("UPDATE fence SET latest = latest + 1")
        (fence,) = self._database.execute("SELECT latest FROM fence").fetchone()
        self._database.execute(
            "INSERT OR REPLACE INTO claims (key, owner, fence, until) VALUES (?, ?, ?, ?)",
            (key, owner, fence, now + lease),
        )
        return New(fence)

    # --- to the thread ----------------------------------------------------------------------------

    async def _update(self, items: Sequence[Held], statement: str, seconds: float) -> Sequence[bool]:
        """Where the claim is still this owner's: one whose lease lapsed is, until somebody else takes the key."""
        ours = f"{statement} WHERE key = :key AND owner = :owner AND fence = :fence AND done = 0"

        def update(now: float) -> list[bool]:
            return [
                self._database.execute(ours, {**item._asdict(), "until": now + seconds}).rowcount > 0 for item in items
            ]

        return await self._transaction(update)

    async def _transaction(self, work: Callable[[float], Answer]) -> Answer:
        def run() -> Answer:
            # Immediate: a transaction that began by reading could not be finished if another has written meanwhile.
            self._database.execute("BEGIN IMMEDIATE")
            try:
                answer = work(time.monotonic())
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
            return answer

        return await self._in_thread(run)

    async def _in_thread(self, work: Callable[[], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def made(folder: Path) -> Path:
    """The file of a store, made by one process before others open it all at once."""
    path = folder / "claims.sqlite"
    store = SqliteStore(path)
    await store.open()
    await store.close()
    return path

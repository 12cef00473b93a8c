"""The store: each call is one statement or a few, whatever the number of keys."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import TextClause
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from unibus.driver import Clock, SystemClock
from unibus.errors import AccessDenied, ConfigurationError, ConnectionLost, NotOpen
from unibus.idempotency.store import Claim, Done, Held, InProgress, New
from unibus_sql.dialect import DIALECTS, SWEPT
from unibus_sql.failures import FOREIGN, translate
from unibus_sql.spelling import spelled, spelled_all
from unibus_sql.tables import METADATA
from unibus_sql.transaction import SqlTransaction

logger = logging.getLogger("unibus.sql")

SWEEP_EVERY = 300.0
"""Seconds between two looks for rows that mean nothing any more."""
UNTOLD = 5.0
"""Seconds to say for a transaction that has the key: nobody knows when it ends."""

Answer = TypeVar("Answer")


class SqlStore:
    """`@idempotent(store="postgresql+asyncpg://…")`, or with an engine of your own.

    A handler that takes an AsyncSession gets one whose transaction has its key, too: both are kept, or neither.

    transactions: of handlers at once, each on a connection; on SQLite one in all. timeout: seconds that one call of
    the store may take, connecting included. owned: whether `close` disposes of the engine.
    """

    provides = AsyncSession

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        clock: Clock | None = None,
        transactions: int = 10,
        timeout: float = 10.0,
        owned: bool = False,
    ) -> None:
        dialect = DIALECTS.get(engine.dialect.name)
        if dialect is None:
            raise ConfigurationError(
                f"{engine.dialect.name} cannot keep idempotency keys; use one of: {', '.join(sorted(DIALECTS))}"
            )
        self._engine = engine
        self._dialect = dialect
        self._clock = clock or SystemClock()
        self._timeout = timeout
        self._owned = owned
        self._slots = asyncio.Semaphore(1 if dialect.serial else transactions)
        self._at_once = engine if dialect.serial else engine.execution_options(isolation_level="AUTOCOMMIT")
        self._open = False
        self._swept_at = 0.0
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect, and create the table unless it is there."""
        try:
            await self._create()
        except BaseException:
            await self._dispose()
            raise
        self._open = True
        self._swept_at = self._clock.monotonic()

    async def _create(self) -> None:
        async def create() -> None:
            async with self._engine.connect() as connection:
                if (first := self._dialect.begin if self._dialect.serial else self._dialect.creating) is not None:
                    await connection.execute(first)
                await connection.run_sync(METADATA.create_all)
                await connection.commit()

        try:
            await self._bounded("opening the store", create)
        except AccessDenied as error:
            told = f"{error}; who may not create the table finds its DDL in unibus_sql's README"
            raise AccessDenied(told) from error.__cause__

    async def close(self) -> None:
        self._open = False
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        await self._dispose()

    async def _dispose(self) -> None:
        if self._owned:
            await self._engine.dispose()

    # --- claims -----------------------------------------------------------------------------------

    async def claim(self, keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        if not keys:
            return []
        return await self._call(
            "claiming keys", lambda connection: self._take(connection, self._dialect.claim, keys, owner, lease, False)
        )

    async def complete(self, items: Sequence[Held], ttl: float) -> Sequence[bool]:
        return await self._change("completing keys", self._dialect.complete, items, lasts=ttl)

    async def release(self, items: Sequence[Held]) -> Sequence[bool]:
        return await self._change("releasing keys", self._dialect.release, items)

    async def renew(self, items: Sequence[Held], lease: float) -> Sequence[bool]:
        return await self._change("renewing keys", self._dialect.renew, items, lasts=lease)

    async def _take(
        self,
        connection: AsyncConnection,
        statement: TextClause,
        keys: Sequence[str],
        owner: str,
        lasts: float,
        done: bool,
    ) -> list[Claim]:
        asked = {"keys": json.dumps(spelled_all(keys))}
        values: dict[str, Any] = {**asked, "owner": owner, "lasts": lasts, "done": done}
        if self._dialect.count is not None:
            latest = (await connection.execute(self._dialect.count, {"many": len(keys)})).scalar_one()
            values["before"] = latest - len(keys)
        taken = {row.key: row.fence for row in await connection.execute(statement, values)}
        others: dict[str, Claim] = {}
        if len(taken) < len(keys):
            for row in await connection.execute(self._dialect.held, asked):
                if row.remaining > 0:  # else it is being taken by another in this moment
                    others[row.key] = Done() if row.done else InProgress(row.owner, row.remaining)
        untold = InProgress("a transaction", UNTOLD)
        return [New(taken[key]) if key in taken else others.get(key, untold) for key in spelled_all(keys)]

    async def _change(
        self, doing: str, statement: TextClause, items: Sequence[Held], **values: float
    ) -> Sequence[bool]:
        if not items:
            return []
        asked = json.dumps([{**item._asdict(), "key": spelled(item.key)} for item in items])

        async def change(connection: AsyncConnection) -> list[bool]:
            changed = {(row.key, row.fence) for row in await connection.execute(statement, {"items": asked, **values})}
            return [(spelled(item.key), item.fence) in changed for item in items]

        return await self._call(doing, change)

    # --- a handler's transaction --------------------------------------------------------------------

    @asynccontextmanager
    async def transaction(self, keys: Sequence[str], ttl: float) -> AsyncIterator[SqlTransaction]:
        """Begin one that takes the keys. What is not committed when it is left is undone.

        It waits for no other transaction but, on SQLite, for the end of the one that writes.
        """
        self._refuse_closed()
        async with self._slots:
            transaction = await self._begin()
            try:
                transaction.claims = await self._bounded(
                    "taking keys", lambda: self._take(transaction.connection, self._dialect.keep, keys, "", ttl, True)
                )
                yield transaction
            finally:
                await transaction.end()
        self._sweep_now_and_then()

    async def _begin(self) -> SqlTransaction:
        async def begin() -> AsyncConnection:
            connection = await self._engine.connect()
            try:
                if self._dialect.begin is not None:
                    await connection.execute(self._dialect.begin)
            except BaseException:
                await connection.close()
                raise
            return connection

        connection = await self._bounded("beginning a transaction", begin)
        return SqlTransaction(connection, self._dialect.forget, self._bounded)

    # --- calls --------------------------------------------------------------------------------------

    async def _call(self, doing: str, work: Callable[[AsyncConnection], Awaitable[Answer]]) -> Answer:
        self._refuse_closed()

        async def call() -> Answer:
            async with self._at_once.connect() as connection:
                if self._dialect.begin is not None:
                    await connection.execute(self._dialect.begin)
                answer = await work(connection)
                await connection.commit()
                return answer

        if self._dialect.serial:
            async with self._slots:
                answer = await self._bounded(doing, call)
        else:
            answer = await self._bounded(doing, call)
        self._sweep_now_and_then()
        return answer

    async def _bounded(self, doing: str, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Raises errors of ours."""
        try:
            # Of the loop's own time: it is about the network.
            async with asyncio.timeout(self._timeout):
                return await work()
        except TimeoutError as error:
            why = ", as if another process is writing to it" if self._dialect.serial else ""
            raise ConnectionLost(f"{doing} at {self._where}: no answer within {self._timeout:g} s{why}") from error
        except FOREIGN as error:
            raise translate(error, f"{doing} at {self._where}") from error

    @property
    def _where(self) -> str:
        url = self._engine.url
        return url.database or "?" if self._dialect.serial else f"{url.host}:{url.port or 5432}/{url.database}"

    def _refuse_closed(self) -> None:
        if not self._open:
            raise NotOpen("the idempotency store is not open; call open() first")

    # --- sweeping -----------------------------------------------------------------------------------

    def _sweep_now_and_then(self) -> None:
        if self._open and self._sweeping is None and self._clock.monotonic() - self._swept_at > SWEEP_EVERY:
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep(), name="unibus sweep idempotency keys")

    async def _sweep(self) -> None:
        async def sweep(connection: AsyncConnection) -> int:
            return (await connection.execute(self._dialect.sweep)).rowcount

        self._swept_at = self._clock.monotonic()
        try:
            while await self._call("sweeping keys", sweep) == SWEPT:
                pass
        except Exception as error:
            logger.warning("idempotency keys that are over could not be swept, later again: %s", error)
        finally:
            self._sweeping = None

"""One transaction: the keys of messages, and what their handler does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import TextClause
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from unibus.errors import DriverError
from unibus.idempotency.store import Claim
from unibus_sql.failures import FOREIGN
from unibus_sql.spelling import spelled_all

logger = logging.getLogger("unibus.sql")

Bounded = Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]


class SqlTransaction:
    """claims: what is known of each key; New means that it is kept with this transaction.

    resource: the handler's session. Its `commit` and `rollback` are about a savepoint: the transaction ends with us.
    """

    def __init__(self, connection: AsyncConnection, forget: TextClause, bounded: Bounded) -> None:
        self.connection = connection
        self.claims: Sequence[Claim] = ()
        self.resource = AsyncSession(connection, expire_on_commit=False, join_transaction_mode="create_savepoint")
        self._forget = forget
        self._bounded = bounded
        self._torn = False

    async def commit(self, without: Sequence[str] = ()) -> None:
        """Keep the effect and the keys, less those of `without`.

        Raises a DriverError that is retryable if the database failed: then it may be kept, or not. Else what the
        database has against the handler's statements, as SQLAlchemy says it.
        """
        try:
            await self._bounded("committing", lambda: self._commit(without))
        except DriverError as error:
            if error.retryable or error.__cause__ is None:
                raise
            raise error.__cause__ from None

    async def _commit(self, without: Sequence[str]) -> None:
        await self.resource.commit()
        if without:
            await self.connection.execute(self._forget, {"keys": json.dumps(spelled_all(without))})
        # If this fails half-way the connection may still be in the transaction: whoever got it next would see our keys.
        self._torn = True
        await self.connection.commit()
        self._torn = False

    async def end(self) -> None:
        """Undo what is not committed, and give the connection back, whoever is cancelled meanwhile."""
        await asyncio.shield(asyncio.get_running_loop().create_task(self._end(), name="unibus end a transaction"))

    async def _end(self) -> None:
        try:
            await self.resource.close()
        except FOREIGN as error:
            logger.debug("a session could not be closed: %s", error)
        try:
            if self._torn:
                await self.connection.invalidate()
            await self.connection.close()
        except FOREIGN as error:
            logger.debug("a connection could not be given back: %s", error)

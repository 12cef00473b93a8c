"""Handlers whose effect is a row: in one transaction with the key, or beside keys that lie elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from unibus import Message, idempotent

if TYPE_CHECKING:
    from tests.faults.consuming import Handle, Work, Written


def writing(written: Written, work: Work, lease: float) -> Handle:
    insert = text(f"INSERT INTO {written.table} VALUES (:id)")
    if written.keys == written.database:

        async def within(data: str, message: Message[str], session: AsyncSession) -> None:
            async def write(id: str) -> None:  # noqa: A002
                await session.execute(insert, {"id": id})

            await work(data, message, write)

        return idempotent(store=written.keys)(within)

    engine = create_async_engine(written.database, pool_size=20)

    async def write(id: str) -> None:  # noqa: A002
        async with engine.begin() as connection:
            await connection.execute(insert, {"id": id})

    async def beside(data: str, message: Message[str]) -> None:
        await work(data, message, write)

    return idempotent(store=written.keys, lease=lease)(beside)

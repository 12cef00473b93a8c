"""An effect in a database, exactly once: what the handler writes and the message's key are one transaction.

On PostgreSQL the store's URL is postgresql+asyncpg://host/database; the rest stays as it is.
"""

from __future__ import annotations

import asyncio
import tempfile

from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from examples.running import run
from unibus import Bus, constant, idempotent, retry

folder = tempfile.TemporaryDirectory()
DATABASE = f"sqlite+aiosqlite:///{folder.name}/bank.db"


class Deposit(BaseModel):
    number: int
    amount: int


bus = Bus("memory://")
failures = [ConnectionError("the exchange rate is not to be had")]
seen: asyncio.Queue[Deposit] = asyncio.Queue()


@bus.consumer("deposits", concurrency=1)
@idempotent(key=lambda message: message.data.number, store=DATABASE)
@retry(on=ConnectionError, backoff=constant(0.05))
async def deposit(data: Deposit, session: AsyncSession) -> None:
    await session.execute(text("UPDATE account SET balance = balance + :amount"), {"amount": data.amount})
    if failures:
        raise failures.pop()  # undoes the change, so that the next attempt is no duplicate
    seen.put_nowait(data)  # no commit: it comes with the key when the handler has ended, and after it the ack


async def main() -> None:
    engine = create_async_engine(DATABASE)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE account AS SELECT 0 AS balance"))
    one, two = Deposit(number=1, amount=10), Deposit(number=2, amount=20)
    async with bus.consuming():
        await bus.producer("deposits").send(one)
        print("handled:", await seen.get())
        await bus.producer("deposits").send_many([one, one, two], key=lambda data: "one account")
        print("handled:", await seen.get())
        stats = bus.stats()["deposits"]
    async with engine.connect() as connection:
        balance = (await connection.execute(text("SELECT balance FROM account"))).scalar_one()
    await engine.dispose()
    print(f"balance {balance}; retried {stats.retried}, duplicates skipped {stats.skipped}")


if __name__ == "__main__":
    run(bus, main)

"""A process with one consumer: `python -m tests.faults.consuming '{"url": …}'`. Serves until SIGTERM."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from pydantic import BaseModel

from tests.faults.following import follow_parent, journal_logs, report
from tests.faults.journal import Journal
from tests.faults.load import delay_of, payload
from tests.faults.sqlite_store import SqliteStore
from unibus import Bus, Message, Retry, idempotent

Write: TypeAlias = Callable[[str], Awaitable[None]]
Work: TypeAlias = Callable[[str, Message[str], Write], Awaitable[None]]
Handle: TypeAlias = Callable[..., Awaitable[None]]

LEASE = 5.0
"""Seconds for which a key stays with a process that was killed: as long may its messages have to wait."""


class Written(BaseModel):
    """Effects in a database: rows of a table with one column. keys: the URL of the idempotency store; that of the
    database itself makes key and row one transaction."""

    database: str
    table: str
    keys: str


class Consuming(BaseModel):
    """What to do. work: seconds that a handler takes. share: how many messages to hold, all in handlers.

    failures: how often each message fails; it asks to be run again after `again` seconds, least and most.
    store: the file of an idempotency store that all processes share. written: where each effect is a
    row.
    """

    url: str
    queue: str
    journal: Path
    seed: int
    share: int
    work: float
    failures: int = 0
    again: tuple[float, float] = (1.0, 3.0)
    store: Path | None = None
    written: Written | None = None


def consumer(task: Consuming, journal: Journal) -> Bus:
    bus = Bus(task.url, name=task.queue, grace=20)

    async def work(data: str, message: Message[str], write: Write) -> None:
        deliveries = message.delivery.deliveries or 0
        journal.write("begun", message.id, attempt=message.attempt, value=deliveries)
        if data != payload(message.id):
            journal.write("corrupt", message.id, text=data[:200])
        await asyncio.sleep(task.work / 2)
        if message.attempt <= task.failures:
            after = delay_of(task.seed, message.id, f"attempt {message.attempt}", *task.again)
            journal.write("failed", message.id, attempt=message.attempt, value=after)
            raise Retry(after)
        await write(message.id)
        journal.write("effect", message.id, attempt=message.attempt)
        await asyncio.sleep(task.work / 2)
        journal.write("ended", message.id, attempt=message.attempt)

    if task.written is not None:
        from tests.faults.writing import writing  # its library is not everywhere where books are tested

        handle = writing(task.written, work, LEASE)
    else:
        handle = _plain(work)
    if task.store is not None:
        handle = idempotent(store=SqliteStore(task.store), lease=LEASE)(handle)
    bus.consumer(task.queue, concurrency=task.share, prefetch=task.share)(handle)
    return bus


def _plain(work: Work) -> Handle:
    async def nothing(id: str) -> None:  # noqa: A002
        pass

    async def handle(data: str, message: Message[str]) -> None:
        await work(data, message, nothing)

    return handle


async def consume(task: Consuming, journal: Journal) -> bool:
    bus = consumer(task, journal)
    reporting = asyncio.create_task(report(bus, journal))
    clean = await bus.serve(on_ready=lambda: journal.write("ready"))
    reporting.cancel()
    journal.write("stopped", text=str(bus.stats()))
    return clean


def main() -> None:
    task = Consuming.model_validate_json(sys.argv[1])
    follow_parent()
    journal = Journal(task.journal)
    journal_logs(journal)
    sys.exit(0 if asyncio.run(consume(task, journal)) else 1)


if __name__ == "__main__":
    main()

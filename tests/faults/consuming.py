"""A process with one consumer: `python -m tests.faults.consuming '{"url": …}'`. Serves until SIGTERM."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pydantic import BaseModel

from tests.faults.following import follow_parent, journal_logs, report
from tests.faults.journal import Journal
from tests.faults.load import delay_of, payload
from tests.faults.sqlite_store import SqliteStore
from unibus import Bus, Message, Retry, idempotent

LEASE = 5.0
"""Seconds for which a key stays with a process that was killed: as long may its messages have to wait."""


class Consuming(BaseModel):
    """What to do. work: seconds that a handler takes. share: how many messages to hold, all in handlers.

    failures: how often each message fails; it asks to be run again after `again` seconds, least and most.
    store: the file of an idempotency store that all processes share.
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


def consumer(task: Consuming, journal: Journal) -> Bus:
    bus = Bus(task.url, name=task.queue, grace=20)

    async def handle(data: str, message: Message[str]) -> None:
        journal.write("begun", message.id, attempt=message.attempt)
        if data != payload(message.id):
            journal.write("corrupt", message.id, text=data[:200])
        await asyncio.sleep(task.work / 2)
        if message.attempt <= task.failures:
            after = delay_of(task.seed, message.id, f"attempt {message.attempt}", *task.again)
            journal.write("failed", message.id, attempt=message.attempt, value=after)
            raise Retry(after)
        journal.write("effect", message.id, attempt=message.attempt)
        await asyncio.sleep(task.work / 2)
        journal.write("ended", message.id, attempt=message.attempt)

    if task.store is not None:
        handle = idempotent(store=SqliteStore(task.store), lease=LEASE)(handle)
    bus.consumer(task.queue, concurrency=task.share, prefetch=task.share)(handle)
    return bus


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

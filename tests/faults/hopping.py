"""A process that consumes where messages fail: `python -m tests.faults.hopping '{"url": …}'`. Serves until SIGTERM, or
dies at a step of its one hop."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path

from pydantic import BaseModel

from tests.faults.dying import Dying
from tests.faults.following import follow_parent, journal_logs
from tests.faults.hops import Hop, Step
from tests.faults.journal import Journal
from tests.faults.load import payload
from unibus import Bus, Message, Reject, Retry

PREFETCH = 50


class Hopping(BaseModel):
    """What to do. step: where to die, at the first hop. watch: what sees to steps that are the broker's own; it is
    imported by all, whether they die or not."""

    url: str
    journal: Path
    hops: list[Hop]
    step: Step | None = None
    watch: str = ""


def consumers(task: Hopping, journal: Journal) -> Bus:
    """One for each hop, with one handler at a time."""
    if task.watch:
        importlib.import_module(task.watch)
    dying = Dying(task.hops[0], task.step, task.watch, journal) if task.step is not None else None
    bus = Bus(task.url, grace=20, connect=dying.connect() if dying is not None else None)
    for hop in task.hops:
        _consume(bus, hop, journal, dying)
    return bus


def _consume(bus: Bus, hop: Hop, journal: Journal, dying: Dying | None) -> None:
    async def handle(data: str, message: Message[str]) -> None:
        journal.write("begun", message.id, attempt=message.attempt)
        if data != payload(message.id):
            journal.write("corrupt", message.id, text=data[:200])
        if message.id == hop.message and (hop.verdict == "dead" or message.attempt == 1):
            if dying is not None:
                dying.failed()
            if hop.verdict == "dead":
                raise Reject("it always fails")
            journal.write("failed", message.id, attempt=message.attempt, value=hop.after)
            raise Retry(hop.after)
        journal.write("ended", message.id, attempt=message.attempt)

    if hop.group:
        bus.subscriber(hop.name, group=hop.name, concurrency=1, prefetch=PREFETCH)(handle)
    else:
        bus.consumer(hop.name, concurrency=1, prefetch=PREFETCH)(handle)


async def consume(task: Hopping, journal: Journal) -> bool:
    bus = consumers(task, journal)
    clean = await bus.serve(on_ready=lambda: journal.write("ready"))
    journal.write("stopped", text=str(bus.stats()))
    return clean


def main() -> None:
    task = Hopping.model_validate_json(sys.argv[1])
    follow_parent()
    journal = Journal(task.journal)
    journal_logs(journal)
    sys.exit(0 if asyncio.run(consume(task, journal)) else 1)


if __name__ == "__main__":
    main()

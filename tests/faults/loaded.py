"""A program for `unibus run tests.faults.loaded:bus`: one consumer, which a variable of the environment tells what to
do."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from tests.faults.journal import Journal
from unibus import Bus, Message

VARIABLE = "UNIBUS_FAULTS_LOADED"
CONCURRENCY = 8
PREFETCH = 40


class Loaded(BaseModel):
    """What to do. folder: of the journals, one for each process. work: seconds that a handler takes."""

    queue: str
    folder: Path
    work: float


bus = Bus()


def consume(task: Loaded) -> None:
    journal = Journal(task.folder / f"{os.getpid()}.journal")

    @bus.consumer(task.queue, concurrency=CONCURRENCY, prefetch=PREFETCH)
    async def handle(data: str, message: Message[str]) -> None:
        journal.write("begun", message.id, attempt=message.attempt)
        await asyncio.sleep(task.work)
        journal.write("ended", message.id, attempt=message.attempt)


if VARIABLE in os.environ:
    consume(Loaded.model_validate_json(os.environ[VARIABLE]))

"""A process with many publishers: `python -m tests.faults.publishing '{"url": …}'`. Sends each id until confirmed."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from tests.faults.following import follow_parent, journal_logs, report
from tests.faults.journal import Journal
from tests.faults.load import chance, delay_of, message_id, payload
from unibus import Bus
from unibus.errors import DestinationNotFound, DriverError, NotSent, OutcomeUnknown, Rejected
from unibus.producer import Producer

AGAIN = 0.05
"""Seconds before an id is sent again: nobody should spin on a broker that refuses at once."""


class Publishing(BaseModel):
    """What to do. pace: seconds over which to spread it all; 0 is as fast as confirms come.

    delay: the least and the most seconds to delay each message; None sends at once. times: how often each is sent.
    """

    url: str
    queue: str
    journal: Path
    run: str
    seed: int
    count: int
    publishers: int = 20
    pace: float = 0.0
    delay: tuple[float, float] | None = None
    times: int = 1


async def publish(task: Publishing, journal: Journal) -> None:
    bus = Bus(task.url, name=task.run)
    producer = bus.producer(task.queue, str)
    async with bus:
        journal.write("ready")
        reporting = asyncio.create_task(report(bus, journal))
        async with asyncio.TaskGroup() as publishers:
            for number in range(task.publishers):
                publishers.create_task(publish_share(task, journal, producer, number))
        reporting.cancel()
    journal.write("stopped")


async def publish_share(task: Publishing, journal: Journal, producer: Producer[str], first: int) -> None:
    start, chances = time.monotonic(), chance(task.seed, "pace", first)
    for number in _order(task, first):
        due = start + task.pace * (number + chances.uniform(0, task.publishers)) / task.count
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        await send_until_confirmed(task, journal, producer, message_id(task.run, number))


def _order(task: Publishing, first: int) -> Sequence[int]:
    """Several times each: shuffled, so that some come side by side, and most when the first is handled already."""
    numbers = range(first, task.count, task.publishers)
    if task.times == 1:
        return numbers
    copies = task.times * len(numbers)
    return chance(task.seed, "order", first).sample(numbers, copies, counts=[task.times] * len(numbers))


async def send_until_confirmed(task: Publishing, journal: Journal, producer: Producer[str], id: str) -> None:  # noqa: A002
    delay = delay_of(task.seed, id, "sent", *task.delay) if task.delay is not None else 0.0
    while True:
        began = time.monotonic()
        try:
            await producer.send(payload(id), id=id, delay=delay)
        except OutcomeUnknown as error:
            journal.write("unknown", id, began=began, text=str(error))
        except (NotSent, Rejected, DestinationNotFound) as error:
            journal.write("unsent", id, began=began, text=f"{type(error).__name__}: {error}")
        except DriverError as error:
            if not error.retryable:
                raise
            journal.write("unsent", id, began=began, text=f"{type(error).__name__}: {error}")
        else:
            journal.write("confirmed", id, began=began)
            return
        await asyncio.sleep(AGAIN)


def main() -> None:
    task = Publishing.model_validate_json(sys.argv[1])
    follow_parent()
    journal = Journal(task.journal)
    journal_logs(journal)
    asyncio.run(publish(task, journal))


if __name__ == "__main__":
    main()

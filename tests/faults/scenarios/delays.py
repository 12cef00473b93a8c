"""Faults while messages wait for their time."""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest

from tests.faults.books import Books
from tests.faults.load import delay_of
from tests.faults.run import IN_FLIGHT, Fault, Run
from tests.faults.server import taken
from unibus import Bus

DELAYS = (1.0, 3.0)
"""Seconds."""
ORPHANS = 100
ORPHANED_FOR = (6.0, 8.0)
"""Seconds in which their queue can be deleted before they are due."""


async def killed(run: Run) -> None:
    """Every message is sent with a delay, fails at first, and is delayed again: the broker dies with all of that."""
    async with run.of("broker kill -9 under delays"):
        run.needs_delays()
        await run.ground.rested()
        await run.consume(work=run.work(5), failures=1)
        await run.publish(pace=15, delay=DELAYS)
        await run.until_share("ended", 0.2)
        fault = await run.kill_broker()
        await run.recovered(fault, "confirmed", "ended")
        books = await run.finished(quiet=DELAYS[1] + 2, late=run.bounds.late)
        # A duplicate of the first attempt fails, too, and so makes one of the second.
        allowed = 2 * (IN_FLIGHT + len(books.unknown) + run.bounds.in_transit)
        run.judge(books, duplicates=allowed, also=books.early(sent_delays(run, books))[:5])


async def orphaned(run: Run) -> None:
    """A queue is deleted for which messages wait. They are put aside and told of, and hold up no others."""
    server = run.ground.server
    async with run.of(f"{ORPHANS} delayed to a deleted queue"), Bus(run.url) as bus:
        run.needs_delays()
        if (aside := server.undeliverable) is None:
            pytest.skip("this broker keeps no place for them")
        await taken(bus, aside)
        await run.consume(work=0.01, failures=1)
        doomed = await run.ground.queue()
        await (await run.publish(queue=doomed, count=ORPHANS, delay=ORPHANED_FOR)).ended()
        run.reading.catch_up()
        sent = set(run.reading.ids("confirmed"))
        assert await server.tools.delete(run.url, doomed) == 0, "some were due too early"
        gone = time.monotonic()
        await run.publish(count=run.count - ORPHANS, pace=10, delay=DELAYS)
        await run.recovered(Fault(gone, gone), "ended")
        others = 1 - ORPHANS / run.count
        await run.until_share("ended", others)
        await run.until(lambda: told(run) == dict.fromkeys(pids(run), ORPHANS), "all are told", run.bounds.told)
        found = Counter(await taken(bus, aside))
        books = await run.finished(share=others, quiet=DELAYS[1] + 2, elsewhere=found)
        wrong = [] if found == Counter(sent) else [f"{len(sent - set(found))} are not there, {found.total()} lie there"]
        late = [one for one in sent if books.confirmed[one].began + ORPHANED_FOR[0] < gone]
        assert not late, "the queue was deleted too late"
        run.judge(books, duplicates=0, also=[*wrong, *books.early(sent_delays(run, books))[:5]])


def told(run: Run) -> dict[int, int]:
    """How many missed messages each consumer has warned of."""
    counts = Counter[int]()
    for entry in run.of_kind("log"):
        if found := re.search(r"may have missed (\d+) messages", entry.text):
            counts[entry.pid] += int(found[1])
    return dict(counts)


def pids(run: Run) -> list[int]:
    return [worker.pid for worker in run.consumers]


def sent_delays(run: Run, books: Books) -> dict[str, float]:
    """With which delay each message of the run's own queue was sent."""
    ours = [one for one in books.confirmed if one.startswith(f"{run.queue}-")]
    return {one: delay_of(run.seed, one, "sent", *DELAYS) for one in ours}

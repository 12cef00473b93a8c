"""What every process of a run does beside its work: end with its parent, and tell of itself in its journal."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import sys
import threading
from pathlib import Path

from tests.faults.journal import Journal
from unibus import Bus

EVERY = 0.5
"""Seconds between two looks at its memory."""


def follow_parent() -> None:
    """Nothing is ever written to our stdin: it ends when the parent does, whatever ended that."""
    threading.Thread(target=_wait_for_parent, name="follow parent", daemon=True).start()


def _wait_for_parent() -> None:
    # Not by way of sys.stdin, whose lock this thread would hold when the interpreter ends.
    os.read(0, 1)
    os._exit(3)


class JournalHandler(logging.Handler):
    """What unibus warns of goes into the journal, with its time."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.write("log", text=f"{record.levelname} {record.name}: {record.getMessage()}")


def journal_logs(journal: Journal) -> None:
    """To stderr as well, where a traceback is looked for afterwards."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger("unibus").addHandler(JournalHandler(journal))


async def report(bus: Bus, journal: Journal) -> None:
    """Until it is cancelled: what can be seen from outside, where it has changed."""
    gaps, health, known = 0, "", None
    while True:
        journal.write("memory", value=most_memory())
        stats = bus.stats()
        if (now := sum(each.gaps for each in stats.values())) != gaps:
            gaps = now
            journal.write("gaps", value=gaps)
        if (said := "; ".join(bus.health().reasons)) != health:
            health = said
            journal.write("health", text=health)
        if (figures := str(stats)) != known:
            known = figures
            journal.write("stats", text=known)
        await asyncio.sleep(EVERY)


def most_memory() -> int:
    """Bytes. Where there is /proc: what `getrusage` says there begins with what the parent had when it forked."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

"""Who is using the engine.

A session is alive as long as its file is locked, so that a killed one needs no clean end.
"""

from __future__ import annotations

import fcntl
import uuid
from pathlib import Path

from tests.brokers.places import SESSIONS, try_lock


class Session:
    """One run of the tests. Claim it, and look for others, under the lock `engine` alone."""

    def __init__(self) -> None:
        SESSIONS.mkdir(parents=True, exist_ok=True)
        self.name = uuid.uuid4().hex[:12]
        self._path = SESSIONS / self.name
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def end(self) -> None:
        self._path.unlink(missing_ok=True)
        self._file.close()


def alive() -> set[str]:
    """The sessions that run; the files of those that do not are removed."""
    if not SESSIONS.is_dir():
        return set()
    return {path.name for path in SESSIONS.iterdir() if _is_alive(path)}


def _is_alive(path: Path) -> bool:
    with path.open() as file:
        if not try_lock(file):
            return True
        path.unlink(missing_ok=True)
        return False

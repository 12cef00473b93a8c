"""Where the engine, its images and the sessions are kept; locks between the processes that use them."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unibus-brokers"
OWNER = hashlib.sha256(str(CACHE).encode()).hexdigest()[:8]
"""Tells our engine and containers from those of another user of this machine, or of another cache."""

DATA = CACHE / "engine"
# Not in the cache: sockets have short paths, and what describes a running engine must not survive the machine's.
RUN = Path("/run") / f"unibus-brokers-{OWNER}"
SOCKET = f"unix://{RUN}/docker.sock"
SESSIONS = CACHE / "sessions"


@contextmanager
def exclusive(name: str) -> Iterator[None]:
    """One process at a time; the lock of a killed process is free."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def try_lock(file: IO[str] | int) -> bool:
    """Held for as long as the file is open; false if another process holds it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

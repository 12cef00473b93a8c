"""What a process did, line by line, in a file that a kill -9 of the process cannot take back."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

PUBLISHED = "confirmed", "unknown", "unsent"
"""How an attempt to send may end."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. at, began: seconds of the machine's monotonic clock, which all its processes share.

    kind: of a publisher "confirmed", "unknown" or "unsent", with `began`, when that attempt to send began;
    of a handler "begun" (`value`: how often the broker has delivered it, where it counts), "effect", "failed"
    (`value`: to be run again after so many seconds), "ended" or "corrupt"; of any process "ready", "memory"
    (`value`: the most that it has held so far, bytes), "gaps" (`value`: how many its consumer has counted),
    "health", "stats", "log" (`text`) and "stopped".
    """

    kind: str
    pid: int
    at: float
    wall: float
    id: str = ""
    attempt: int = 1
    began: float = 0.0
    value: float = 0.0
    text: str = ""


class Journal:
    """Writes. Each line is one write to the end of the file: whole, in order, and in the system's hands at once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._pid = os.getpid()

    def write(
        self,
        kind: str,
        id: str = "",  # noqa: A002
        *,
        attempt: int = 1,
        began: float = 0.0,
        value: float = 0.0,
        text: str = "",
    ) -> None:
        entry = Entry(kind, self._pid, time.monotonic(), time.time(), id, attempt, began, value, text)
        os.write(self._file, json.dumps(asdict(entry)).encode() + b"\n")


class Reading:
    """Reads what the processes of one run have written so far into files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, int] = {}
        self._by_kind: dict[str, list[Entry]] = {}
        self._ids: dict[str, set[str]] = {}
        self.entries: list[Entry] = []

    def catch_up(self) -> None:
        """Read on; what is from one file stays in its order. A line that is being written comes later."""
        for path in sorted(self._folder.glob("*.journal")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                whole, newline, _ = file.read().rpartition(b"\n")
            if newline:
                self._read[path] = self._read.get(path, 0) + len(whole) + 1
                for line in whole.split(b"\n"):
                    self._enter(Entry(**json.loads(line)))

    def _enter(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._by_kind.setdefault(entry.kind, []).append(entry)
        self._ids.setdefault(entry.kind, set()).add(entry.id)

    def by_kind(self, kind: str) -> list[Entry]:
        return self._by_kind.get(kind, [])

    def ids(self, kind: str) -> set[str]:
        return self._ids.get(kind, set())

"""The processes of a run: started, watched, killed, stopped, and what is wrong with how they lived and ended."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from tests.faults.journal import Entry

ROOT = Path(__file__).parents[2]
STOP_WITHIN = 30.0
"""Seconds that a process gets to end: its grace of 20, and some for a machine that is busy."""
GROWTH = 64 * 1024 * 1024
"""Bytes by which a process may grow under faults."""
WRONG = re.compile(
    r"Traceback|[Uu]nhandled|never retrieved|never awaited|was destroyed but it is pending|ended by itself"
)
"""What no process may say on stderr."""


class Worker:
    """One process, and the files that outlive it."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, stderr: Path) -> None:
        self.name = name
        self.pid = process.pid
        self.killed = False
        self.hung = False
        """It was asked to end, and did not in time."""
        self._process = process
        self._stderr = stderr

    @property
    def code(self) -> int | None:
        return self._process.returncode

    async def kill(self) -> None:
        """SIGKILL; returns once it is dead."""
        self.killed = True
        if self.code is None:
            self._process.kill()
        await self._process.wait()

    def freeze(self) -> None:
        """It stands still, and does not know, until `thaw`."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def ended(self, within: float = STOP_WITHIN) -> bool:
        """Whether it ends by itself in time."""
        waiting = asyncio.ensure_future(self._process.wait())
        await asyncio.wait([waiting], timeout=within)
        if waiting.done():
            return True
        waiting.cancel()
        return False

    def ask_to_stop(self) -> None:
        if self.code is None:
            self._process.send_signal(signal.SIGTERM)

    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    def complaints(self, entries: list[Entry]) -> list[str]:
        """What is wrong with it, now that it has ended. entries: of all processes."""
        found = []
        if self.code is None or self.hung:
            found.append(f"{self.name} does not end")
        elif not self.killed and self.code != 0:
            found.append(f"{self.name} ended with code {self.code}: {self.stderr()[-2000:]}")
        if said := WRONG.search(text := self.stderr()):
            found.append(f"{self.name} says {said[0]!r}:\n{text[max(0, said.start() - 500) : said.start() + 2000]}")
        memory = [entry.value for entry in entries if entry.pid == self.pid and entry.kind == "memory"]
        if memory and memory[-1] - memory[0] > GROWTH:
            found.append(f"{self.name} grew from {memory[0] / 2**20:.0f} to {memory[-1] / 2**20:.0f} MiB")
        return found


class Processes:
    """Those of one run, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.workers: list[Worker] = []

    def journal(self, name: str) -> Path:
        return self._folder / f"{name}.journal"

    async def start(self, name: str, module: str, task: BaseModel) -> Worker:
        """`python -m module`, told what to do by its one argument."""
        return await self.command(name, module, task.model_dump_json())

    async def command(
        self, name: str, module: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> Worker:
        """`python -m module`. environment: what is added to ours."""
        stderr = self._folder / f"{name}.stderr"
        ours = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "adapters")))}
        with stderr.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", module, *arguments,
                cwd=ROOT,
                env={**ours, **(environment or {})},
                stdin=asyncio.subprocess.PIPE,  # ends when we do: see `follow_parent`
                stderr=file,
                start_new_session=True,  # Ctrl-C is ours alone
            )  # fmt: skip
        worker = Worker(name, process, stderr)
        self.workers.append(worker)
        return worker

    async def stop(self) -> None:
        """Politely, all at once; who does not end in time stays."""
        for worker in self.workers:
            worker.ask_to_stop()
        ended = await asyncio.gather(*[worker.ended() for worker in self.workers])
        for worker, has_ended in zip(self.workers, ended, strict=True):
            worker.hung = not has_ended

    async def kill_all(self) -> None:
        for worker in self.workers:
            if worker.code is None:
                await worker.kill()

    def complaints(self, entries: list[Entry]) -> list[str]:
        return [complaint for worker in self.workers for complaint in worker.complaints(entries)]

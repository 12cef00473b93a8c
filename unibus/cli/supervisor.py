"""Keeps worker processes alive, and passes signals on to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import AsyncIterable, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from unibus.cli.restarts import RestartPolicy, Restarts
from unibus.cli.worker import EXIT_CLEAN, EXIT_FORCED, EXIT_REFUSED, Word, Work, work_under_supervision

log = logging.getLogger("unibus.cli")

# Spawned, not forked: a fork would copy whatever threads, locks and connections the parent has by then.
_context = multiprocessing.get_context("spawn")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SIGNALS_PASSED_ON = 2
"""The first asks a worker to finish what it has, the second to let go of it. The next one kills."""


class Slot:
    """One worker's place: the process that fills it changes."""

    def __init__(self, name: str, work: Work, policy: RestartPolicy) -> None:
        self.name = name
        self.work = work
        self.restarts = Restarts(policy)
        self.process: SpawnProcess | None = None
        self.words: Connection | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.ready = False
        self.reloading = False

    @property
    def alive(self) -> bool:
        return self.process is not None


class Supervisor:
    """Starts one process for each piece of work and runs until they have all ended.

    A worker that dies is started again, after a pause, within the policy's budget. One that refuses to start, since
    the program asks for something that cannot be, ends all. With `changes` there are no restarts but on a change.
    """

    def __init__(
        self,
        works: Sequence[Work],
        *,
        policy: RestartPolicy | None = None,
        changes: AsyncIterable[str] | None = None,
    ) -> None:
        policy = policy or RestartPolicy()
        self._slots = [Slot(f"worker {number}", work, policy) for number, work in enumerate(works)]
        self._changes = changes
        self._signals = 0
        self._stopping = False
        self._code = EXIT_CLEAN

    async def run(self) -> int:
        """The exit code: 0 if every worker finished what it had."""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        for number in _SIGNALS:
            self._loop.add_signal_handler(number, self._on_signal, number)
        watching = asyncio.create_task(self._watch(self._changes)) if self._changes is not None else None
        try:
            for slot in self._slots:
                self._start(slot)
            await self._ended.wait()
        finally:
            if watching is not None:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching
            for number in _SIGNALS:
                self._loop.remove_signal_handler(number)
            for slot in self._slots:
                if slot.process is not None:  # only if the supervisor itself failed
                    slot.process.terminate()
        return self._code

    def _start(self, slot: Slot) -> None:
        slot.timer = None
        slot.ready = slot.reloading = False
        slot.words, words = _context.Pipe(duplex=False)
        slot.process = _context.Process(
            target=work_under_supervision, args=(slot.work, words), name=slot.name.replace(" ", "-")
        )
        slot.process.start()
        words.close()
        self._loop.add_reader(slot.words.fileno(), self._hear, slot)
        self._loop.add_reader(slot.process.sentinel, self._on_exit, slot)

    def _hear(self, slot: Slot) -> None:
        if slot.words is None:
            return
        try:
            word: Word = slot.words.recv()
        except (EOFError, OSError):
            # The worker closed its end: its exit is about to be seen.
            self._stop_hearing(slot)
            return
        what, why = word
        if what == "ready":
            slot.ready = True
            log.info("%s (pid %s) is ready", slot.name, slot.process.pid if slot.process else "?")
        elif not self._stopping:
            log.error("%s could not start: %s", slot.name, why)
            if what == "refused" and self._changes is None:
                self._stop(EXIT_REFUSED)

    def _stop_hearing(self, slot: Slot) -> None:
        if slot.words is not None:
            self._loop.remove_reader(slot.words.fileno())
            slot.words.close()
            slot.words = None

    def _on_exit(self, slot: Slot) -> None:
        process = slot.process
        assert process is not None
        while slot.words is not None and slot.words.poll():
            self._hear(slot)
        self._stop_hearing(slot)
        self._loop.remove_reader(process.sentinel)
        process.join()
        code = process.exitcode or 0
        slot.process = None
        process.close()
        if self._stopping:
            self._on_stopped(slot, code)
        elif slot.reloading:
            self._start(slot)
        elif self._changes is not None:
            log.warning("%s ended (%s); it starts again at the next change", slot.name, _ending(code))
        else:
            self._on_death(slot, code)

    def _on_stopped(self, slot: Slot, code: int) -> None:
        # Before it was ready it had nothing in hand, and perhaps no handler for the signal yet.
        if code != EXIT_CLEAN and slot.ready:
            log.warning("%s did not finish what it had (%s)", slot.name, _ending(code))
            self._code = self._code or EXIT_FORCED
        self._end_if_empty()

    def _on_death(self, slot: Slot, code: int) -> None:
        pause = slot.restarts.pause(self._loop.time())
        if pause is None:
            log.error("%s died again (%s); it dies too often, so that all of it ends here", slot.name, _ending(code))
            self._stop(EXIT_FORCED)
            return
        log.warning("%s died (%s); it starts again in %g s", slot.name, _ending(code), pause)
        slot.timer = self._loop.call_later(pause, self._start, slot)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        log.info(
            "%s: %s", number.name, ("finishing what is in hand", "letting go", "killing")[min(self._signals, 3) - 1]
        )
        self._stopping = True
        self._pass_on(number if self._signals <= _SIGNALS_PASSED_ON else signal.SIGKILL)

    def _stop(self, code: int) -> None:
        self._code = self._code or code
        self._stopping = True
        self._pass_on(signal.SIGTERM)

    def _pass_on(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.timer is not None:
                slot.timer.cancel()
            self._tell(slot, number)
        self._end_if_empty()

    def _tell(self, slot: Slot, number: signal.Signals) -> None:
        # The pid is the worker's until we have joined it, which is where `process` becomes None.
        if slot.process is not None and slot.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(slot.process.pid, number)

    def _end_if_empty(self) -> None:
        if not any(slot.alive for slot in self._slots):
            self._ended.set()

    async def _watch(self, changes: AsyncIterable[str]) -> None:
        try:
            async for change in changes:
                if self._stopping:
                    return
                log.info("%s changed: starting again", change)
                self._start_again()
        except (OSError, RuntimeError) as error:
            log.error("changes can no longer be seen: %s", error)
            self._stop(EXIT_FORCED)

    def _start_again(self) -> None:
        for slot in self._slots:
            if slot.process is None:
                self._start(slot)
            elif not slot.reloading:
                slot.reloading = True
                self._tell(slot, signal.SIGTERM)


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"

"""Signals: the first drains, the second releases at once, and both end a program."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

SERVING = """
import asyncio, sys
from unibus import Bus

bus = Bus("memory://", grace=60)

@bus.consumer("orders")
async def handle(number: int) -> None:
    print("started", flush=True)
    try:
        await asyncio.sleep({seconds})
    finally:
        print("ended", flush=True)

async def fill(bus):
    await bus.producer("orders").send(1)

async def lifespan(bus: Bus) -> "collections.abc.AsyncIterator[None]":
    await bus.producer("orders").send(1)
    yield
    print("closed", flush=True)

import collections.abc
bus.lifespan = lifespan
bus.run()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_code_is_zero(tmp_path: Path, number: signal.Signals) -> None:
    lines, code = _serve(tmp_path, 0.3, [number])
    assert lines == ["started", "ended", "closed"]
    assert code == 0


def test_a_second_signal_releases_at_once(tmp_path: Path) -> None:
    lines, code = _serve(tmp_path, 600, [signal.SIGTERM, signal.SIGTERM])
    assert lines == ["started", "ended", "closed"]
    assert code == 1


def _serve(tmp_path: Path, seconds: float, signals: list[signal.Signals]) -> tuple[list[str], int]:
    program = tmp_path / "serving.py"
    program.write_text(SERVING.replace("{seconds}", str(seconds)))
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip()]
        for number in signals:
            process.send_signal(number)
            if len(signals) > 1:
                threading.Event().wait(0.2)  # two signals at once may arrive as one
        out, _ = process.communicate(timeout=60)
    return lines + out.split(), process.returncode


HANGING = """
import asyncio
from unibus import Bus
from unibus.driver import Clock, Driver, Url
from unibus import registry

class Hanging:
    def __init__(self, driver): self.driver = driver
    def __getattr__(self, name): return getattr(self.driver, name)
    async def open(self):
        print("opening", flush=True)
        await asyncio.Event().wait()

Bus("memory://", connect=lambda url, clock: Hanging(registry.connect(url, clock))).run()
print("ended", flush=True)
"""


def test_a_signal_ends_a_program_whose_broker_does_not_answer(tmp_path: Path) -> None:
    program = tmp_path / "hanging.py"
    program.write_text(HANGING)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "opening"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert (out.split(), process.returncode) == (["ended"], 0)

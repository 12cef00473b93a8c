"""Nothing is left behind, however a run ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import broker
from tests.brokers.engine import SESSION_LABEL
from tests.brokers.lease import lease
from tests.brokers.places import ROOT

# A program that starts a broker and stays.
STARTS = """
import json, signal
from tests.brokers import broker
from tests.brokers.lease import lease
broker("redis")
print(json.dumps([lease().session, lease().guardian.pid]), flush=True)
signal.pause()
"""
# A run with an engine of its own. It needs no image: none is in its empty cache.
ENGINE = """
import json, signal
from tests.brokers import dockerd
from tests.brokers.lease import lease
print(json.dumps([lease().engine.own, str(dockerd.RUN), dockerd.running(), lease().guardian.pid]), flush=True)
signal.pause()
"""
KILLS = [signal.SIGTERM, signal.SIGKILL]


@contextmanager
def program(source: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    # Whoever runs this in the background of a shell has SIGINT ignored, and so would its children.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    process = subprocess.Popen(
        [sys.executable, "-c", heeding + source],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, which is signalled like the one in front of a terminal
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def said(process: subprocess.Popen[str]) -> list[Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "it ended before it said anything"
    words: list[Any] = json.loads(line)
    return words


def containers(session: str) -> set[str]:
    found = lease().docker.containers.list(
        all=True, filters={"label": f"{SESSION_LABEL}={session}"}, ignore_removed=True
    )
    return {str(container.id) for container in found}


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.05)


def runs(pid: int) -> bool:
    with suppress(OSError):
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # that of a zombie is empty
    return False


def test_a_program_that_ends() -> None:
    with program(STARTS.replace("signal.pause()", "raise SystemExit(3)")) as process:
        session, _ = said(process)
        assert process.wait(30) == 3
        assert not containers(session), "all is gone when the program is"


def test_ctrl_c() -> None:
    with program(STARTS) as process:
        session, _ = said(process)
        assert len(containers(session)) == 1
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
        assert not containers(session), "all is gone when the program is"


def test_a_paused_broker_goes_too() -> None:
    with program(STARTS.replace("signal.pause()", "broker('redis').pause()")) as process:
        session, _ = said(process)
        process.wait(30)
        assert not containers(session)


@pytest.mark.parametrize("number", KILLS)
def test_killed(number: signal.Signals) -> None:
    with program(STARTS) as process:
        session, _ = said(process)
        assert len(containers(session)) == 1
        os.killpg(process.pid, number)
        process.wait(30)
        until(lambda: not containers(session), "the guardian removes what a killed program left")


def test_killed_with_its_guardian() -> None:
    broker("redis")  # of this run, which goes on
    with program(STARTS) as process:
        session, guardian = said(process)
        os.kill(guardian, signal.SIGKILL)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        until(lambda: not runs(guardian), "the guardian is gone")
        assert len(containers(session)) == 1
    with program(STARTS) as following:
        said(following)
        assert not containers(session), "the next run removes what was left"
    assert containers(lease().session), "and nothing of a run that goes on"


@pytest.mark.parametrize("number", [signal.SIGINT, *KILLS])
def test_the_engine_ends(tmp_path: Path, number: signal.Signals) -> None:
    with program(ENGINE, XDG_CACHE_HOME=str(tmp_path)) as process:
        own, folder, engine, _ = said(process)
        if not own:
            pytest.skip("this machine has an engine that runs: nothing is started, and nothing ended")
        assert runs(engine)
        os.killpg(process.pid, number)
        process.wait(30)
        if number == signal.SIGINT:
            assert not runs(engine), "it is gone when the program is"
            assert not Path(folder).exists()
        else:
            until(lambda: not runs(engine), "the guardian stops the engine of a killed program")
            until(lambda: not Path(folder).exists(), "and removes what describes it")


def test_an_engine_left_by_a_killed_guardian_is_taken_over(tmp_path: Path) -> None:
    with program(ENGINE, XDG_CACHE_HOME=str(tmp_path)) as process:
        own, _, engine, guardian = said(process)
        if not own:
            pytest.skip("this machine has an engine that runs: nothing is started, and nothing ended")
        os.kill(guardian, signal.SIGKILL)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        until(lambda: not runs(guardian), "the guardian is gone")
    with program(ENGINE, XDG_CACHE_HOME=str(tmp_path)) as process:
        assert said(process)[2] == engine
        os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
        assert not runs(engine)


def test_two_runs_share_an_engine(tmp_path: Path) -> None:
    with program(ENGINE, XDG_CACHE_HOME=str(tmp_path)) as one, program(ENGINE, XDG_CACHE_HOME=str(tmp_path)) as two:
        own, _, engine, _ = said(one)
        if not own:
            pytest.skip("this machine has an engine that runs: nothing is started, and nothing ended")
        assert said(two)[2] == engine
        for process, still in ((one, True), (two, False)):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(30)
            assert runs(engine) == still, "the last one stops it"

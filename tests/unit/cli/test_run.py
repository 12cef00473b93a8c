"""`unibus run` in real processes: drained by a signal, restarted, reloaded, asked for its health.

Nothing waits for a fixed time: each step polls for what it needs, up to a deadline.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 30.0

# The handler starts on its own message, leaves a file, and ends once the test has made the file `go`.
APP = """
import asyncio, os
from collections.abc import AsyncIterator
from pathlib import Path
from unibus import Bus

async def feed(bus: Bus) -> AsyncIterator[None]:
    sending = asyncio.create_task(bus.producer("jobs").send({"job": 1}))
    yield
    await sending

bus = Bus("memory://", lifespan=feed)

@bus.consumer("jobs")
async def work(job: dict) -> None:
    Path(f"started-{os.getpid()}").touch()
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    Path(f"finished-{os.getpid()}").touch()
"""


# One worker under a supervisor that soon loses patience.
SUPERVISE = """
import asyncio
from unibus.cli.restarts import RestartPolicy
from unibus.cli.supervisor import Supervisor
from unibus.cli.worker import Work, configure_logging

if __name__ == "__main__":
    configure_logging("info")
    supervisor = Supervisor([Work("app:bus")], policy=RestartPolicy(first=0.01, budget=2))
    raise SystemExit(asyncio.run(supervisor.run()))
"""


class Command:
    """A running `python …` in a folder, its stderr going to a file."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self._log = (folder / "stderr").open("wb")
        environment = {name: value for name, value in os.environ.items() if name != "UNIBUS_URL"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def says(self, text: str) -> bool:
        return text in self.stderr

    def until(self, what: str, true: Callable[[], Any], *, running: bool = True) -> Any:
        deadline = time.monotonic() + PATIENCE
        while not (value := true()):
            assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}\n{self.stderr}"
            assert not running or self.process.poll() is None, f"it ended before: {what}\n{self.stderr}"
            time.sleep(0.01)
        return value

    def files(self, pattern: str) -> list[Path]:
        return sorted(self.folder.glob(pattern))

    def pids(self, kind: str) -> set[int]:
        return {int(path.name.partition("-")[2]) for path in self.files(f"{kind}-*")}

    def until_started(self, count: int) -> set[int]:
        self.until(f"{count} handlers started", lambda: len(self.pids("started")) >= count)
        return self.pids("started")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        return self.process.wait(PATIENCE)

    def clear(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.pids("started"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._log.close()


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*arguments: str, app: str = APP) -> Command:
        (tmp_path / "app.py").write_text(app)
        words = arguments if arguments[0].endswith(".py") else ("-m", "unibus.cli", *arguments)
        started.append(Command(tmp_path, *words))
        return started[-1]

    yield start
    for one in started:
        one.clear()


def ask(port: int, path: str) -> tuple[int, Any] | None:
    """Status and content, or None while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except ConnectionError:
        return None
    finally:
        connection.close()


def is_ready(port: int) -> bool:
    answer = ask(port, "/ready")
    return answer is not None and answer[0] == HTTPStatus.OK


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that nobody has waited for does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_handler_finish(command: Callable[..., Command], number: signal.Signals) -> None:
    running = command("run", "app:bus")
    started = running.until_started(1)
    running.signal(number)
    running.until("it drains", lambda: "draining" in running.stderr)
    (running.folder / "go").touch()
    assert running.end() == 0, running.stderr
    assert running.pids("finished") == started == {running.process.pid}
    assert "app:bus is ready" in running.stderr


def test_a_second_signal_lets_go(command: Callable[..., Command]) -> None:
    running = command("run", "app:bus")
    running.until_started(1)
    running.signal(signal.SIGTERM)
    running.until("it drains", lambda: "draining" in running.stderr)
    running.signal(signal.SIGTERM)
    assert running.end() == 1, running.stderr
    assert running.pids("finished") == set()


def test_workers_are_processes_that_drain_together(command: Callable[..., Command]) -> None:
    running = command("run", "app:bus", "--workers", "2")
    started = running.until_started(2)
    assert running.process.pid not in started
    running.signal(signal.SIGINT)
    running.until("both drain", lambda: running.stderr.count("draining") == 2)
    (running.folder / "go").touch()
    assert running.end() == 0, running.stderr
    assert running.pids("finished") == started


def test_a_second_signal_reaches_the_workers(command: Callable[..., Command]) -> None:
    running = command("run", "app:bus", "--workers", "2")
    running.until_started(2)
    running.signal(signal.SIGTERM)
    running.until("both drain", lambda: running.stderr.count("draining") == 2)
    running.signal(signal.SIGTERM)
    assert running.end() == 1, running.stderr
    assert running.pids("finished") == set()


def test_a_worker_that_dies_is_started_again(command: Callable[..., Command]) -> None:
    running = command("run", "app:bus", "--workers", "2")
    first, second = sorted(running.until_started(2))
    os.kill(first, signal.SIGKILL)
    third = running.until_started(3) - {first, second}
    assert "died (SIGKILL); it starts again in 0.5 s" in running.stderr
    (running.folder / "go").touch()
    running.until("all that live have finished", lambda: running.pids("finished") == {second, *third})
    running.signal(signal.SIGTERM)
    assert running.end() == 0, running.stderr


def test_a_worker_that_dies_too_often_ends_it(command: Callable[..., Command], tmp_path: Path) -> None:
    (tmp_path / "supervise.py").write_text(SUPERVISE)
    running = command("supervise.py", app="import os; os._exit(7)")
    assert running.end() == 1
    assert running.stderr.count("died (exit code 7); it starts again") == 2
    assert "dies too often" in running.stderr


def test_a_third_signal_kills_a_worker_that_answers_no_more(command: Callable[..., Command]) -> None:
    app = APP.replace("await asyncio.sleep(0.01)", "time.sleep(0.01)").replace("import asyncio", "import time, asyncio")
    running = command("run", "app:bus", "--workers", "1", app=app)
    running.until_started(1)
    for said in ("finishing what is in hand", "letting go", "killing"):
        running.signal(signal.SIGTERM)
        running.until(said, partial(running.says, said), running=said != "killing")
    assert running.end() == 1
    assert "worker 0 did not finish what it had (SIGKILL)" in running.stderr


def test_workers_that_cannot_start_end_it_with_one_line(command: Callable[..., Command]) -> None:
    running = command("run", "app:bus", "--workers", "2", "--url", "memroy://")
    assert running.end() == 2
    assert running.stderr.count("could not start: no adapter for memroy:// is installed") == 1
    assert "Traceback" not in running.stderr


def test_workers_know_how_many_they_are(command: Callable[..., Command]) -> None:
    """A store of handled keys in one process is no help to two."""
    app = APP.replace("import Bus", "import Bus, idempotent").replace(
        "async def work", '@idempotent(key=lambda message: "x", store="memory")\nasync def work'
    )
    running = command("run", "app:bus", "--workers", "2", app=app)
    assert running.end() == 2
    assert "with 2 workers" in running.stderr


def test_workers_go_when_their_supervisor_is_killed(command: Callable[..., Command]) -> None:
    running = command("run", "app:bus", "--workers", "2")
    workers = running.until_started(2)
    running.signal(signal.SIGKILL)
    (running.folder / "go").touch()
    running.until("no worker is left", lambda: not any(map(alive, workers)), running=False)
    assert running.pids("finished") == workers


def test_health_over_http(command: Callable[..., Command], free_port: int) -> None:
    running = command("run", "app:bus", "--health-port", str(free_port))
    running.until("it is ready", partial(is_ready, free_port))
    assert ask(free_port, "/live") == (200, {"live": True, "ready": True, "reasons": []})
    (running.folder / "go").touch()
    running.until_started(1)
    running.signal(signal.SIGTERM)
    assert running.end() == 0, running.stderr


def test_each_worker_has_a_health_port_of_its_own(command: Callable[..., Command], free_port: int) -> None:
    running = command("run", "app:bus", "--workers", "2", "--health-port", str(free_port))
    (running.folder / "go").touch()
    for port in (free_port, free_port + 1):
        running.until("it is ready", partial(is_ready, port))
    running.signal(signal.SIGTERM)
    assert running.end() == 0, running.stderr


def test_reload_starts_again_on_a_change(command: Callable[..., Command]) -> None:
    running = command("run", "app:bus", "--reload")
    (first,) = running.until_started(1)
    source = (running.folder / "app.py").read_text()
    # The watch may not be up yet when the first handler runs, so that the change is made until it is seen.
    (running.folder / "go").touch()

    def changed() -> bool:
        (running.folder / "app.py").write_text(source + f"\n# {time.monotonic()}\n")
        return "app.py changed" in running.stderr

    running.until("the change is seen", changed)
    running.until_started(2)
    assert first in running.pids("finished")
    # A mistake is said, and the next change is waited for.
    (running.folder / "app.py").write_text("bus = 1\n")
    running.until("the mistake is said", lambda: "app:bus is an int, not a Bus" in running.stderr)
    known = running.pids("started")
    (running.folder / "app.py").write_text(source)
    running.until("it runs again", lambda: running.pids("started") - known)
    running.signal(signal.SIGINT)
    assert running.end() == 0, running.stderr

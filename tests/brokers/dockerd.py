"""A container engine of our own, beside whatever engine the machine may have.

It has its own data, socket, pid file and containerd namespace. It makes no bridge and touches no packet filter:
its containers share the host's network, where the brokers listen on 127.0.0.1 alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.brokers import apt
from tests.brokers.client import answers
from tests.brokers.errors import BrokerUnavailable
from tests.brokers.places import DATA, RUN, SOCKET

PID = RUN / "dockerd.pid"
LOG = RUN / "dockerd.log"
_children: dict[int, subprocess.Popen[bytes]] = {}


def possible() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0 and (shutil.which("dockerd") is not None or apt.installable())


def start() -> None:
    """Take over the one that runs, or start it; call under the lock `engine`."""
    if answers(SOCKET):
        return
    stop()
    dockerd = apt.need("dockerd", "docker.io")
    RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    DATA.mkdir(parents=True, exist_ok=True)
    (RUN / "daemon.json").write_text("{}")
    with LOG.open("wb") as log:
        # Its own mount namespace: whatever it mounts is gone when it is, even if it was killed.
        process = subprocess.Popen(
            [apt.need("unshare", "util-linux"), "--mount", dockerd, *_options()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _children[process.pid] = process
    deadline = time.monotonic() + 60
    while not answers(SOCKET):
        if process.poll() is not None or time.monotonic() > deadline:
            end = LOG.read_text(errors="replace")[-1500:]
            stop()
            raise BrokerUnavailable(f"dockerd did not start:\n{end}")
        time.sleep(0.05)


def _options() -> list[str]:
    return [
        f"--config-file={RUN}/daemon.json",
        f"--data-root={DATA}",
        f"--exec-root={RUN}/exec",
        f"--pidfile={PID}",
        f"--host={SOCKET}",
        "--containerd-namespace=unibus-tests",
        "--containerd-plugins-namespace=unibus-tests-plugins",
        "--bridge=none",
        "--iptables=false",
        "--ip-forward=false",
        "--ip-masq=false",
    ]


def stop() -> None:
    """Stop it, whoever started it, and remove what describes it; call under the lock `engine`."""
    pid = running()
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        if not _gone(pid, within=20):
            os.kill(pid, signal.SIGKILL)
            _gone(pid, within=10)
    shutil.rmtree(RUN, ignore_errors=True)


def running() -> int | None:
    """The process of our engine. A number in a file may be another process by now: its command line must be ours."""
    with suppress(OSError, ValueError):
        pid = int(PID.read_text())
        if str(PID) in Path(f"/proc/{pid}/cmdline").read_text():
            return pid
    return None


def _gone(pid: int, within: float) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if pid in _children:
            _children[pid].poll()  # else it stays a zombie
        with suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes():
                time.sleep(0.05)
                continue
        return True
    return False

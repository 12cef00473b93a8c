"""Debian packages that the local engine and the local images need."""

from __future__ import annotations

import os
import shutil
import subprocess

from tests.brokers.errors import BrokerUnavailable
from tests.brokers.places import exclusive


def installable() -> bool:
    """Whether this is a Debian, and we may install."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def need(command: str, package: str) -> str:
    """The path of a command, whose package is installed if it is missing."""
    if (path := shutil.which(command)) is not None:
        return path
    if not installable():
        raise BrokerUnavailable(f"`{command}` is missing, and only root on Debian can have it installed: {package}")
    with exclusive("apt"):
        if (done := _install(package)).returncode != 0:
            # The list of packages is old, or there is none. A source that is away must not stop the others.
            _run("apt-get", "update")
            done = _install(package)
    if done.returncode != 0:
        raise BrokerUnavailable(f"apt-get install {package} failed:\n{(done.stdout + done.stderr)[-800:].strip()}")
    if (path := shutil.which(command)) is None:
        raise BrokerUnavailable(f"the package {package} was installed, but has no `{command}`")
    return path


def _install(package: str) -> subprocess.CompletedProcess[str]:
    return _run("apt-get", "install", "--yes", "--no-install-recommends", package)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    # In runlevel 1 no package starts its service: the engine that we need is started by us.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    return subprocess.run(command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

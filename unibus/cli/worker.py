"""One process that serves a bus: this one, or one that a supervisor started."""

from __future__ import annotations

import asyncio
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeAlias

from unibus import Bus, ConfigurationError, UnibusError
from unibus.cli.health import health_server
from unibus.cli.loading import load_bus
from unibus.planning import WORKERS_VARIABLE

EXIT_CLEAN = 0
EXIT_FORCED = 1
EXIT_REFUSED = 2
"""The program asks for something that cannot be: starting it again would not help."""

Word: TypeAlias = tuple[str, str]
"""What a worker tells its supervisor: ("ready", ""), ("refused", why) or ("failed", why)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What to serve and how. It crosses to worker processes."""

    target: str
    url: str | None = None
    health_port: int | None = None
    workers: int = 1
    log_level: str = "info"
    traceback: bool = False


def configure_logging(level: str) -> None:
    """For programs that configure nothing themselves: what has handlers already is left alone."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)-7s [%(process)d] %(name)s: %(message)s")


def serve(work: Work, on_ready: Callable[[], None] | None = None) -> bool:
    """Serve until a signal says otherwise; True if everything in hand was finished."""
    bus = load_bus(work.target)
    bus.configure(url=work.url)
    configure_logging(work.log_level)
    with asyncio.Runner(loop_factory=fastest_loop()) as runner:
        clean = runner.run(_serve(bus, work.health_port, on_ready))
        if not clean:
            # A thread that runs a handler cannot be stopped, and the interpreter would wait for it: whoever forced
            # the end has already decided not to.
            leave_now(EXIT_FORCED)
    return clean


async def _serve(bus: Bus, health_port: int | None, on_ready: Callable[[], None] | None) -> bool:
    # Up before the bus, so that whoever watches sees "not ready" while it connects.
    health = nullcontext() if health_port is None else health_server(bus.health, health_port)
    async with health:
        return await bus.serve(on_ready=on_ready)


def leave_now(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        # By name: it is nobody's dependency, used where it happens to be.
        factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        return None
    return factory


def work_under_supervision(work: Work, supervisor: Connection) -> None:
    """The main function of a worker process."""
    # A group of its own: Ctrl-C in a terminal goes to every process of the group, and the supervisor passes it on.
    # Twice would be "at once" instead of "finish what you have".
    os.setpgid(0, 0)
    # Until the bus takes over, a signal ends the process without a traceback: nothing is in hand yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # How the program learns that others do the same work.
    os.environ[WORKERS_VARIABLE] = str(work.workers)
    threading.Thread(target=_follow_parent, name="unibus-follow-parent", daemon=True).start()

    def ready() -> None:
        supervisor.send(("ready", ""))

    try:
        clean = serve(work, ready)
    except UnibusError as error:
        if work.traceback:
            traceback.print_exception(error)
        refused = isinstance(error, ConfigurationError)
        supervisor.send(("refused" if refused else "failed", str(error)))
        sys.exit(EXIT_REFUSED if refused else EXIT_FORCED)
    sys.exit(EXIT_CLEAN if clean else EXIT_FORCED)


def _follow_parent() -> None:
    """When the supervisor is gone, killed even, finish what is in hand and go as well."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

"""`unibus run`: one process, several under a supervisor, or one that starts again on each change."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import PurePath

from unibus import ConfigurationError
from unibus.cli.supervisor import Supervisor
from unibus.cli.worker import EXIT_CLEAN, EXIT_FORCED, Work, configure_logging, serve
from unibus.errors import MissingDependency

log = logging.getLogger("unibus.cli")

_HIGHEST_PORT = 65535


def run_bus(work: Work, *, workers: int | None, reload: bool) -> int:
    """The exit code."""
    if reload and workers is not None:
        raise ConfigurationError("--reload runs one process; leave out --workers, or --reload")
    if work.health_port is not None and work.health_port + (workers or 1) - 1 > _HIGHEST_PORT:
        raise ConfigurationError(
            f"--health-port {work.health_port}: each of {workers} workers takes the next port, "
            f"and the last would be over {_HIGHEST_PORT}"
        )
    if reload:
        configure_logging(work.log_level)
        return asyncio.run(Supervisor([work], changes=_changes(os.getcwd())).run())
    if workers is not None:
        configure_logging(work.log_level)
        return asyncio.run(Supervisor(share(work, workers)).run())
    clean = serve(work, lambda: log.info("%s is ready", work.target))
    return EXIT_CLEAN if clean else EXIT_FORCED


def share(work: Work, workers: int) -> list[Work]:
    """The same work for each of them, but a health port of its own."""
    first = work.health_port
    return [
        replace(work, workers=workers, health_port=None if first is None else first + number)
        for number in range(workers)
    ]


def _changes(folder: str) -> AsyncIterator[str]:
    """The first of each burst of changed files, seen from the folder."""
    try:
        from watchfiles import PythonFilter, awatch
    except ModuleNotFoundError as error:
        raise MissingDependency('--reload needs watchfiles; install it with: pip install "unibus[cli]"') from error

    async def watch() -> AsyncIterator[str]:
        # unibus.toml and pyproject.toml configure the bus, so that they count as its source.
        async for changes in awatch(folder, watch_filter=PythonFilter(extra_extensions=(".toml",))):
            yield str(PurePath(min(path for _, path in changes)).relative_to(folder))

    return watch()

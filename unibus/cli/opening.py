"""A bus for commands that look after a broker: no handlers, nothing declared, ended by signals in good order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from unibus import Bus, ConfigurationError
from unibus.cli.worker import configure_logging
from unibus.serving import SIGNALS

T = TypeVar("T")

EXIT_INTERRUPTED = 130


def split_url(words: Sequence[str], what: str) -> tuple[str | None, list[str]]:
    """The URL, if the first word is one, and the rest, which must not be empty."""
    url = words[0] if "://" in words[0] else None
    rest = list(words if url is None else words[1:])
    if not rest:
        raise ConfigurationError(f"{what} is missing; write it after the URL, e.g. orders or group:email")
    return url, rest


def with_bus(url: str | None, work: Callable[[Bus], Awaitable[T]]) -> T | None:
    """What the work returns; None if a signal ended it, by cancelling it: it may finish what is in flight."""
    configure_logging("error")
    return asyncio.run(_until_signalled(url, work))


async def _until_signalled(url: str | None, work: Callable[[Bus], Awaitable[T]]) -> T | None:
    async def opened() -> T:
        async with Bus(url, name="unibus") as bus:
            return await work(bus)

    loop = asyncio.get_running_loop()
    task = loop.create_task(opened())
    for number in SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    try:
        await asyncio.wait([task])
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    return None if task.cancelled() else task.result()

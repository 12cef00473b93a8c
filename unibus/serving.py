"""Running a bus until a signal: drain on the first, let go on the second."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unibus.bus import Bus

logger = logging.getLogger("unibus")

SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def serve(bus: Bus, on_ready: Callable[[], None] | None) -> bool:
    stop: asyncio.Event = asyncio.Event()
    forced = False

    def on_signal() -> None:
        nonlocal forced
        if stop.is_set():
            forced = True
            logger.warning("second signal: what is in hand is released at once")
            bus.release_now()
        else:
            logger.info("draining")
            stop.set()

    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        async with bus, bus.consuming():
            if on_ready is not None:
                on_ready()
            await stop.wait()
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    return bus.drained_cleanly and not forced


def run(bus: Bus) -> None:
    if not asyncio.run(serve(bus, None)):
        sys.exit(1)

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
    stop, ready = asyncio.Event(), asyncio.Event()
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
    serving = loop.create_task(_consume(bus, on_ready, ready, stop))
    stopping = loop.create_task(stop.wait())
    try:
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not serving.done() and not ready.is_set():
            serving.cancel()  # a broker that does not answer must not keep the program from ending
            await asyncio.wait([serving])
            if serving.cancelled():
                return True
        await serving
    finally:
        stopping.cancel()
        serving.cancel()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
    return bus.drained_cleanly and not forced


async def _consume(bus: Bus, on_ready: Callable[[], None] | None, ready: asyncio.Event, stop: asyncio.Event) -> None:
    async with bus, bus.consuming():
        ready.set()
        if on_ready is not None:
            on_ready()
        await stop.wait()


def run(bus: Bus) -> None:
    if not asyncio.run(serve(bus, None)):
        sys.exit(1)

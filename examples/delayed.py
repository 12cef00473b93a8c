"""Messages that arrive later. The broker keeps them: the process that sent them may be gone by then."""

from __future__ import annotations

import asyncio
import time

from examples.running import run
from unibus import Bus

bus = Bus("memory://")
rung: asyncio.Queue[str] = asyncio.Queue()

# What a producer will ask for is said here, so that a broker that cannot do it is refused at start.
reminders = bus.producer("reminders", type=str, delay=3600)


@bus.consumer("reminders")
async def ring(what: str) -> None:
    rung.put_nowait(what)


async def main() -> None:
    async with bus.consuming():
        started = time.monotonic()
        await reminders.send("take the cake out", delay=1.2)
        await reminders.send("turn the cake", delay=0.6)
        await reminders.send("put the cake in")
        for _ in range(3):
            what = await rung.get()
            print(f"after {time.monotonic() - started:.1f} s: {what}")


if __name__ == "__main__":
    run(bus, main)

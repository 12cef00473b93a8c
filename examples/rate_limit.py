"""A partner takes five calls a second. What is over that waits in turn, and holds up no other handler's lane.

With more than one process, share the limit: @rate_limit(5, store="redis://…").
"""

from __future__ import annotations

import asyncio
import time

from examples.running import run
from unibus import Bus, rate_limit

bus = Bus("memory://")
called: asyncio.Queue[float] = asyncio.Queue()


@bus.consumer("calls")
@rate_limit(5, per=1.0)
async def call(number: int) -> None:
    called.put_nowait(time.monotonic())


async def main() -> None:
    async with bus.consuming():
        await bus.producer("calls", type=int).send_many(range(12))
        times = [await called.get() for _ in range(12)]
        print(f"12 calls, the last {times[-1] - times[0]:.1f} s after the first")
        print(f"{bus.stats()['calls'].rate_limited} messages had to wait")


if __name__ == "__main__":
    run(bus, main)

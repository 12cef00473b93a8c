"""Does memory grow with the messages that pass through? Resident size every 100,000 of a million.

python -m tests.benchmarks.memory [--count 1000000] [--model log]
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tests.benchmarks.work import ORDERS, Order
from unibus import Bus

BLOCK = 100_000


def resident() -> float:
    """MiB, from Linux's own figure for this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def run(count: int, model: str) -> None:
    bus = Bus(f"memory://?model={model}")
    seen = 0
    enough = asyncio.Event()

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        nonlocal seen
        seen += 1
        if seen % BLOCK == 0:
            enough.set()

    async with bus.consuming():
        sizes = []
        for block in range(count // BLOCK):
            enough.clear()
            for start in range(0, BLOCK, 1000):
                await bus.producer("orders", Order).send_many(ORDERS[n % 512] for n in range(start, start + 1000))
                while seen < block * BLOCK + start:  # at most 1,000 are on their way
                    await asyncio.sleep(0)
            await enough.wait()
            sizes.append(resident())
            print(f"{seen:>9,} messages: {sizes[-1]:7.1f} MiB", flush=True)
        print(f"grown by {sizes[-1] - sizes[0]:.1f} MiB after the first {BLOCK:,}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--model", choices=["queue", "log"], default="queue")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.count, arguments.model))

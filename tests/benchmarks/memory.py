"""Does memory grow with the messages that pass through? Resident size every 100,000 of a million.

    python -m tests.benchmarks.memory [URL] [--count 1000000]

URL: memory:// without one. The queue that is made there is left behind, empty. The exit code is 1 if it grew by more
than 8 MiB after the first 100,000.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.benchmarks.work import ORDERS, Order
from unibus import Bus

BLOCK: Final = 100_000
CHUNK: Final = 1_000
AHEAD: Final = 2_000
"""Messages that may be on their way."""
MOST: Final = 8.0
"""MiB."""


def resident() -> float:
    """MiB, from Linux's own figure for this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def run(url: str, count: int) -> float:
    """By how many MiB it grew after the first block."""
    bus, queue = Bus(url), f"memory-{uuid.uuid4().hex[:8]}"
    seen, progress = 0, asyncio.Event()

    @bus.consumer(queue, concurrency=50)
    async def handle(order: Order) -> None:
        nonlocal seen
        seen += 1
        if seen % CHUNK == 0:
            progress.set()

    async def until(number: int) -> None:
        while seen < number:
            progress.clear()
            await progress.wait()

    async with bus.consuming():
        sizes = []
        producer = bus.producer(queue, Order)
        for start in range(0, count, CHUNK):
            await producer.send_many(_orders(start))
            await until(start + CHUNK - AHEAD)
            if (start + CHUNK) % BLOCK == 0:
                await until(start + CHUNK)
                sizes.append(resident())
                print(f"{seen:>9,} messages: {sizes[-1]:7.1f} MiB", flush=True)
    return sizes[-1] - sizes[0]


def _orders(start: int) -> Iterator[Order]:
    return (ORDERS[number % len(ORDERS)] for number in range(start, start + CHUNK))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?", default="memory://")
    parser.add_argument("--count", type=int, default=1_000_000)
    given = parser.parse_args()
    try:
        new_loop = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        new_loop = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        grown = runner.run(run(given.url, given.count))
    print(f"grown by {grown:.1f} MiB after the first {BLOCK:,}")
    return int(grown > MOST)


if __name__ == "__main__":
    sys.exit(main())

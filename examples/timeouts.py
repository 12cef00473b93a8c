"""A run that takes too long is cancelled, and fails with TimeoutError: another attempt may be luckier."""

from __future__ import annotations

import asyncio

from examples.running import run
from unibus import Bus, Message, constant, retry, timeout

bus = Bus("memory://")
told: asyncio.Queue[str] = asyncio.Queue()


@bus.consumer("reports")
@retry(on=TimeoutError, attempts=3, backoff=constant(0.2))
@timeout(0.5)
async def make(name: str, message: Message[str]) -> None:
    try:
        await asyncio.sleep(60 if message.attempt == 1 else 0.01)  # the first one waits for a lock, say
    except asyncio.CancelledError:
        told.put_nowait(f"attempt {message.attempt}: cancelled, so it lets go of what it holds")
        raise
    told.put_nowait(f"attempt {message.attempt}: the report {name!r} is made")


async def main() -> None:
    async with bus.consuming():
        await bus.producer("reports", type=str).send("january")
        print(await told.get())
        print(await told.get())


if __name__ == "__main__":
    run(bus, main)

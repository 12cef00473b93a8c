"""A middleware is a function from a handler to a handler. The message that it sees is decoded already.

To return is success, to raise is failure; `Bus(middleware=[…])` wraps every handler, `@use` one.
"""

from __future__ import annotations

import asyncio
import time

from examples.running import run
from unibus import Bus, Drop, Handler, Message, Middleware, use

done: asyncio.Queue[str] = asyncio.Queue()


def timed(handler: Handler) -> Handler:
    async def wrapped(message: Message[object]) -> object:
        started = time.perf_counter()
        try:
            return await handler(message)
        finally:
            done.put_nowait(f"{message.data} took {(time.perf_counter() - started) * 1000:.0f} ms")

    return wrapped


def only_for(tenant: str) -> Middleware:
    # A middleware with an argument: a function that makes one.
    def middleware(handler: Handler) -> Handler:
        async def wrapped(message: Message[object]) -> object:
            if message.headers.get("tenant") != tenant:
                raise Drop  # settled without a record, counted
            return await handler(message)

        return wrapped

    return middleware


bus = Bus("memory://", middleware=[timed])


@bus.consumer("greetings")
@use(only_for("acme"))
async def greet(name: str) -> None:
    await asyncio.sleep(0.02)
    print(f"hello {name}")


async def main() -> None:
    async with bus.consuming():
        producer = bus.producer("greetings", type=str)
        await producer.send("Ada", headers={"tenant": "acme"})
        await producer.send("Bob", headers={"tenant": "other"})
        print(await done.get(), await done.get(), sep="\n")


if __name__ == "__main__":
    run(bus, main)

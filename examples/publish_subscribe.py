"""Topics: every group hears every message under its patterns; a subscriber without a group hears what comes meanwhile.

`*` stands for one word, `#` for any number of them.
"""

from __future__ import annotations

import asyncio

from examples.running import run
from unibus import Bus, Message

bus = Bus("memory://")
heard: asyncio.Queue[str] = asyncio.Queue()


@bus.subscriber("user.*", group="email")
async def mail(name: str, message: Message[str]) -> None:
    heard.put_nowait(f"email      {message.address:<16} {name}")


@bus.subscriber("user.created", "order.#", group="statistics")
async def count(name: str, message: Message[str]) -> None:
    heard.put_nowait(f"statistics {message.address:<16} {name}")


@bus.subscriber("#")  # no group: a dashboard, open while it is connected, that misses what came before
async def show(name: str, message: Message[str]) -> None:
    heard.put_nowait(f"dashboard  {message.address:<16} {name}")


async def main() -> None:
    async with bus.consuming():
        await bus.publisher("user.created", type=str).publish("Ada")
        await bus.publisher("user.deleted", type=str).publish("Bob")
        await bus.publisher("order.paid.late", type=str).publish("Cyd")
        await bus.publisher("weather", type=str).publish("rain")  # only the dashboard subscribes to that
        for _ in range(8):
            print(await heard.get())


if __name__ == "__main__":
    run(bus, main)

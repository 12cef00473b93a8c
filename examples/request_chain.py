"""A chain of handlers: what a handler sends keeps the correlation id, and names its cause."""

from __future__ import annotations

import asyncio

from examples.running import run
from unibus import Bus, Message

bus = Bus("memory://")
steps: asyncio.Queue[Message[str]] = asyncio.Queue()


@bus.consumer("orders")
async def order(what: str, message: Message[str], bus: Bus) -> None:
    steps.put_nowait(message)
    await bus.producer("payments").send(what)


@bus.consumer("payments")
async def pay(what: str, message: Message[str], bus: Bus) -> None:
    steps.put_nowait(message)
    await bus.publisher("payment.done").publish(what)


@bus.subscriber("payment.*", group="shipping")
async def ship(what: str, message: Message[str]) -> None:
    steps.put_nowait(message)


async def main() -> None:
    async with bus.consuming():
        await bus.producer("orders", type=str).send("a kettle", correlation_id="request-17")
        before: str | None = None
        for _ in range(3):
            message = await steps.get()
            caused = "by the sender" if before is None else "by the one above"
            assert message.causation_id == before
            print(f"{message.address:<13} {message.correlation_id}  {message.id}  caused {caused}")
            before = message.id


if __name__ == "__main__":
    run(bus, main)

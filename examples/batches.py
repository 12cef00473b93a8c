"""A handler that takes many messages at once, for what is cheaper in bulk. Single ones can end differently."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from examples.running import run
from unibus import Bus, Message


class Reading(BaseModel):
    sensor: str
    celsius: float


bus = Bus("memory://")
stored: asyncio.Queue[int] = asyncio.Queue()


@bus.consumer("readings", max_batch=50, max_wait=0.2, concurrency=1)
async def store(messages: list[Message[Reading]]) -> None:
    good = []
    for message in messages:
        if message.data.celsius < -273.15:
            message.reject("colder than possible")  # this one alone becomes a dead letter
        else:
            good.append(message.data)
    print(f"{len(messages)} came together, {len(good)} of them stored")  # one INSERT with many rows
    stored.put_nowait(len(good))


async def main() -> None:
    readings = [Reading(sensor=f"s{number % 4}", celsius=number % 30) for number in range(119)]
    readings.insert(60, Reading(sensor="s1", celsius=-999))
    async with bus.consuming():
        await bus.producer("readings", type=Reading).send_many(readings)
        total = 0
        while total < 119:
            total += await stored.get()
        async with bus.pull(queue="readings.dlq", type=Reading) as deliveries:
            delivery = await anext(deliveries)
            print(f"dead letter: {delivery.data}")
            await delivery.ack()


if __name__ == "__main__":
    run(bus, main)

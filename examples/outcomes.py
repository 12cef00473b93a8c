"""A handler returns: done. It raises: the policy decides, or it says itself how the message ends."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from examples.running import run
from unibus import Bus, Drop, Message, Reject, Retry


class Parcel(BaseModel):
    id: int
    to: str


bus = Bus("memory://")
delivered: asyncio.Queue[str] = asyncio.Queue()


@bus.consumer("parcels", concurrency=1)
async def deliver(parcel: Parcel, message: Message[Parcel]) -> None:
    match parcel.to:
        case "nobody":
            raise Drop  # forget it
        case "":
            raise Reject("no address")  # a dead letter at once, whatever the retry policy
        case "Ada" if message.attempt == 1:
            raise Retry(after=0.2)  # nobody at home: again, but not so soon
    delivered.put_nowait(f"parcel {parcel.id} for {parcel.to} delivered at attempt {message.attempt}")


async def main() -> None:
    async with bus.consuming():
        parcels = [Parcel(id=1, to="Ada"), Parcel(id=2, to=""), Parcel(id=3, to="nobody"), Parcel(id=4, to="Bob")]
        await bus.producer("parcels", type=Parcel).send_many(parcels)
        for _ in range(2):
            print(await delivered.get())
        stats = bus.stats()["parcels"]
        print(f"retried {stats.retried}, dead-lettered {stats.dead_lettered}, dropped {stats.dropped}")


if __name__ == "__main__":
    run(bus, main)

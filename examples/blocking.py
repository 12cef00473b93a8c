"""A program without asyncio (Django, Flask, a script) sends through the same bus, from any of its threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel

from examples.running import choose_url
from unibus import Bus


class Signup(BaseModel):
    name: str


bus = Bus("memory://")


@bus.consumer("signups")  # elsewhere: `unibus run examples.blocking:bus`
async def welcome(signup: Signup) -> None:
    print(f"welcome {signup.name}")


def main() -> None:
    with bus.blocking() as blocking:
        signups = blocking.producer("signups", type=Signup)
        message_id = signups.send(Signup(name="Ada"))  # returns once the broker has confirmed
        print(f"sent {message_id}")
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(signups.send, [Signup(name=f"guest {number}") for number in range(8)]))
        print(f"{blocking.depth('signups').ready} signups wait for a consumer")


if __name__ == "__main__":
    choose_url(bus)
    main()

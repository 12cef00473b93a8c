"""One group, several types: the type that travels with a message chooses among the members of the union."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from pydantic import BaseModel

from examples.running import run
from unibus import Bus, Message


class UserCreated(BaseModel):
    message_type: ClassVar[str] = "user.created.v1"  # else the class's name; it may be renamed without harm
    name: str


class UserRenamed(BaseModel):
    message_type: ClassVar[str] = "user.renamed.v1"
    name: str
    before: str


bus = Bus("memory://")
heard: asyncio.Queue[str] = asyncio.Queue()


@bus.subscriber("user.*", group="greeter")
async def greet(user: UserCreated | UserRenamed, message: Message[UserCreated | UserRenamed]) -> None:
    match user:
        case UserCreated(name=name):
            heard.put_nowait(f"{message.type}: welcome {name}")
        case UserRenamed(name=name, before=before):
            heard.put_nowait(f"{message.type}: {before} is now {name}")


async def main() -> None:
    async with bus.consuming():
        await bus.publisher("user.created", type=UserCreated).publish(UserCreated(name="Ada"))
        await bus.publisher("user.renamed", type=UserRenamed).publish(UserRenamed(name="Ada L.", before="Ada"))
        for _ in range(2):
            print(await heard.get())


if __name__ == "__main__":
    run(bus, main)

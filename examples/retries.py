"""Each failure has a policy of its own: the uppermost @retry that takes it decides, and all count the same attempts."""

from __future__ import annotations

import asyncio

from examples.running import run
from unibus import Bus, Message, Retry, exponential, linear, retry

bus = Bus("memory://")
told: asyncio.Queue[str] = asyncio.Queue()


class Unavailable(Exception):
    """The bank's answer 503, with the seconds of its header Retry-After."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("come back later")
        self.retry_after = retry_after


def ask_bank(attempt: int) -> str:
    match attempt:
        case 1:
            raise ConnectionError("no answer")
        case 2:
            raise Unavailable(retry_after=0.3)
        case 3:
            raise TimeoutError("too slow")
    return "paid"


@bus.consumer("payments")
@retry(on=TimeoutError, attempts=5, backoff=linear(0.1, max=0.5))
@retry(on=(ConnectionError, Unavailable), attempts=8, backoff=exponential(0.1, max=0.8), budget=0.2)
async def pay(order: int, message: Message[int]) -> None:
    try:
        told.put_nowait(f"attempt {message.attempt}: {ask_bank(message.attempt)}")
    except Unavailable as error:
        told.put_nowait(f"attempt {message.attempt}: {error}")
        raise Retry(after=error.retry_after) from error
    except Exception as error:
        told.put_nowait(f"attempt {message.attempt}: {error}")
        raise


async def main() -> None:
    async with bus.consuming():
        await bus.producer("payments", type=int).send(7)
        for _ in range(4):
            print(await told.get())


if __name__ == "__main__":
    run(bus, main)

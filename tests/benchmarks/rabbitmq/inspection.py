"""What is in a queue after a turn, whatever the contender believes. Raises AssertionError or TimeoutError."""

from __future__ import annotations

import asyncio
from typing import Final

from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, DeliveryMode

from tests.benchmarks.load import check, check_whole
from tests.benchmarks.work import Order

PATIENCE: Final = 10.0
"""Seconds in which the broker must show what was confirmed or acked."""
STILL: Final = 0.3
"""Seconds for which an empty queue must stay empty: what was not acked comes back when a channel ends."""
READ_BACK_TIMEOUT: Final = 60.0


async def holds(channel: AbstractChannel, name: str, expected: int) -> None:
    """So many messages are ready."""
    async with asyncio.timeout(PATIENCE):
        while (found := await _ready(channel, name)) < expected:
            await asyncio.sleep(0.05)
    assert found == expected, f"{found} messages are in the queue, not {expected}"


async def is_settled(channel: AbstractChannel, name: str) -> None:
    """Nobody consumes any more, and nothing is left, nor comes back."""
    async with asyncio.timeout(PATIENCE):
        while (await _declared(channel, name))[1]:
            await asyncio.sleep(0.05)
    await asyncio.sleep(STILL)
    left = await _ready(channel, name)
    assert left == 0, f"{left} messages are left in the queue: they were handled, but not acked"


async def read_back(channel: AbstractChannel, name: str, count: int) -> None:
    """Take all out: they are the orders that were sent, and persistent."""
    queue = await channel.get_queue(name)
    orders: list[Order] = []
    volatile = 0
    complete = asyncio.Event()

    async def take(message: AbstractIncomingMessage) -> None:
        nonlocal volatile
        volatile += message.delivery_mode is not DeliveryMode.PERSISTENT
        orders.append(Order.model_validate_json(message.body))
        if len(orders) >= count:
            complete.set()

    tag = await queue.consume(take, no_ack=True)
    async with asyncio.timeout(READ_BACK_TIMEOUT):
        await complete.wait()
    await queue.cancel(tag)
    check((order.order_id for order in orders), count)
    check_whole(orders)
    assert not volatile, f"{volatile} messages were stored as such that a restart loses"


async def _ready(channel: AbstractChannel, name: str) -> int:
    return (await _declared(channel, name))[0]


async def _declared(channel: AbstractChannel, name: str) -> tuple[int, int]:
    """Messages that are ready, and consumers."""
    found = (await channel.declare_queue(name, passive=True)).declaration_result
    return found.message_count or 0, found.consumer_count or 0

"""redis-py with batches by hand: how far the same client library goes.

No framework, no way back after a lost connection, no attributes, and nobody's claim but its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

from tests.benchmarks.load import BATCH, PREFETCH, Figures, Handled, Send, drive, order_at
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order

GROUP = "handlers"
ADD = "for i = 1, #ARGV do redis.call('XADD', KEYS[1], '*', 'data', ARGV[i]) end"
PUBLISH = "for i = 1, #ARGV do redis.call('PUBLISH', KEYS[1], ARGV[i]) end"
CALLS = 4
"""In flight at once."""


async def publish(task: Task) -> Figures:
    async with Redis.from_url(task.url) as client:
        return await drive(_in_batches(await _script(client, ADD), task.name), task.count)


async def send_many(task: Task) -> Figures:
    async with Redis.from_url(task.url) as client:
        add = await _script(client, ADD)
        calls: list[asyncio.Future[Any]] = []
        began = time.perf_counter()
        for start in range(0, task.count, BATCH):
            numbers = range(start, min(start + BATCH, task.count))
            bodies = [order_at(number).model_dump_json() for number in numbers]
            calls.append(asyncio.ensure_future(add(keys=[task.name], args=bodies)))
            if len(calls) == CALLS:
                await calls.pop(0)
        await asyncio.gather(*calls)
        return {"a second": task.count / (time.perf_counter() - began)}


fill = send_many


async def consume(task: Task) -> Figures:
    """Acks, deletions and the next read in one write, on a connection of its own."""
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    async with Redis.from_url(task.url) as client:
        await client.xgroup_create(task.name, GROUP, id="0")
        pool: Any = client.connection_pool
        connection = await pool.get_connection()
        read = ("XREADGROUP", "GROUP", GROUP, "me", "COUNT", PREFETCH, "BLOCK", 500, "STREAMS", task.name, ">")
        acks: list[bytes] = []
        while not done.is_set() or acks:
            commands: list[tuple[Any, ...]] = []
            if acks:
                commands += [("XACK", task.name, GROUP, *acks), ("XDEL", task.name, *acks)]
            if not done.is_set():
                commands.append(read)
            await connection.send_packed_command(connection.pack_commands(commands))
            replies = [await connection.read_response() for _ in commands]
            acks = []
            if done.is_set() or not replies[-1]:
                continue
            reply = replies[-1]
            for entry_id, fields in reply[task.name.encode()] if isinstance(reply, dict) else reply[0][1]:
                handled.one(Order.model_validate_json(fields[1]))
                acks.append(entry_id)
        await pool.release(connection)
    return handled.figures()


async def pubsub(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    async with Redis.from_url(task.url) as client, client.pubsub() as subscription:
        await subscription.subscribe(task.name)
        publishing = await _script(client, PUBLISH)

        async def listen() -> None:
            async for message in subscription.listen():
                if message["type"] == "message":
                    handled.one(Order.model_validate_json(message["data"]))
                    if done.is_set():
                        return

        listening = asyncio.create_task(listen())
        await drive(_in_batches(publishing, task.name), task.count)
        await listening
    return handled.figures()


async def _script(client: Redis, text: str) -> Callable[..., Awaitable[Any]]:
    await client.script_load(text)
    script: Callable[..., Awaitable[Any]] = client.register_script(text)
    return script


def _in_batches(call: Callable[..., Awaitable[Any]], key: str) -> Send:
    """What is sent in one tick of the loop leaves in one call."""
    loop = asyncio.get_running_loop()
    batch: list[tuple[str, asyncio.Future[None]]] = []
    writing: set[asyncio.Task[None]] = set()

    async def write(taken: list[tuple[str, asyncio.Future[None]]]) -> None:
        await call(keys=[key], args=[body for body, _ in taken])
        for _, answered in taken:
            answered.set_result(None)

    def flush() -> None:
        task = loop.create_task(write(batch.copy()))
        writing.add(task)
        task.add_done_callback(writing.discard)
        batch.clear()

    async def send(order: Order) -> None:
        answered: asyncio.Future[None] = loop.create_future()
        batch.append((order.model_dump_json(), answered))
        if len(batch) == 1:
            loop.call_soon(flush)
        await answered

    return send

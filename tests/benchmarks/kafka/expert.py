"""aiokafka with batches by hand, and two headers on each record: how far the same client library goes.

No framework, no deadline, and no order by key in `send_many`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiokafka import AIOKafkaProducer

from tests.benchmarks.kafka.server import servers
from tests.benchmarks.load import Figures, Send, drive, order_at
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order

HEADERS = [("ce_id", b"0190f5fe-7c00-7a00-8000-000000000001"), ("ce_type", b"Order")]


async def publish(task: Task) -> Figures:
    async with AIOKafkaProducer(bootstrap_servers=servers(task.url), acks="all", linger_ms=0) as producer:
        return await drive(_in_batches(producer, task.name), task.count)


async def send_many(task: Task) -> Figures:
    """One future a batch."""
    async with AIOKafkaProducer(bootstrap_servers=servers(task.url), acks="all", linger_ms=0) as producer:
        partitions = sorted(await producer.partitions_for(task.name))
        began = time.perf_counter()
        sent: list[asyncio.Future[Any]] = []
        batch = producer.create_batch()

        async def send() -> None:
            partition = partitions[len(sent) % len(partitions)]
            sent.append(await producer.send_batch(batch, task.name, partition=partition))

        for number in range(task.count):
            order = order_at(number)
            key, value = order.order_id.encode(), order.model_dump_json().encode()
            if batch.append(key=key, value=value, timestamp=None, headers=HEADERS) is None:
                await send()
                batch = producer.create_batch()
                batch.append(key=key, value=value, timestamp=None, headers=HEADERS)
        await send()
        await asyncio.gather(*sent)
        return {"a second": task.count / (time.perf_counter() - began)}


def _in_batches(producer: AIOKafkaProducer, topic: str) -> Send:
    """What is sent in one tick of the loop is queued together."""
    loop = asyncio.get_running_loop()
    batch: list[tuple[bytes, bytes, asyncio.Future[None]]] = []
    writing: set[asyncio.Task[None]] = set()

    async def write(taken: list[tuple[bytes, bytes, asyncio.Future[None]]]) -> None:
        await asyncio.wait([await producer.send(topic, body, key=key, headers=HEADERS) for key, body, _ in taken])
        for _, _, confirmed in taken:
            confirmed.set_result(None)

    def flush() -> None:
        task = loop.create_task(write(batch.copy()))
        writing.add(task)
        task.add_done_callback(writing.discard)
        batch.clear()

    async def send(order: Order) -> None:
        confirmed: asyncio.Future[None] = loop.create_future()
        batch.append((order.order_id.encode(), order.model_dump_json().encode(), confirmed))
        if len(batch) == 1:
            loop.call_soon(flush)
        await confirmed

    return send

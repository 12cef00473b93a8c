"""aiokafka, as a careful user writes it by hand: the measure of all others."""

from __future__ import annotations

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.benchmarks.kafka.server import servers
from tests.benchmarks.load import PREFETCH, Figures, Handled, drive, order_at
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order


async def publish(task: Task) -> Figures:
    async with AIOKafkaProducer(bootstrap_servers=servers(task.url), acks="all", linger_ms=2) as producer:

        async def send(order: Order) -> None:
            await producer.send_and_wait(task.name, order.model_dump_json().encode(), key=order.order_id.encode())

        return await drive(send, task.count)


async def fill(task: Task) -> Figures:
    async with AIOKafkaProducer(bootstrap_servers=servers(task.url), acks="all", linger_ms=5) as producer:
        stored = []
        for number in range(task.count):
            order = order_at(number)
            body, key = order.model_dump_json().encode(), order.order_id.encode()
            stored.append(await producer.send(task.name, body, key=key))
        await asyncio.gather(*stored)
    return {}


async def consume(task: Task) -> Figures:
    """Commits a batch at once, after all of it was handled."""
    handled = Handled(task.count, lambda: None)
    left = task.count
    async with AIOKafkaConsumer(
        task.name, bootstrap_servers=servers(task.url), group_id=f"raw-{task.name}",
        enable_auto_commit=False, auto_offset_reset="earliest",
    ) as consumer:  # fmt: skip
        while left:
            for partition, records in (await consumer.getmany(timeout_ms=500, max_records=PREFETCH)).items():
                for record in records:
                    handled.one(Order.model_validate_json(record.value))
                await consumer.commit({partition: records[-1].offset + 1})
                left -= len(records)
    return handled.figures()

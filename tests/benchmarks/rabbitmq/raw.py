"""aio-pika, as a careful user writes it by hand: the measure of all others."""

from __future__ import annotations

import asyncio

import aio_pika

from tests.benchmarks.load import PREFETCH, Figures, Handled, Send, drive, pace
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order


async def publish(task: Task) -> Figures:
    async with await aio_pika.connect_robust(task.url) as connection:
        return await drive(await _sending(connection, task.name), task.count)


async def paced(task: Task) -> Figures:
    async with await aio_pika.connect_robust(task.url) as connection:
        return await pace(await _sending(connection, task.name), task.count)


async def _sending(connection: aio_pika.abc.AbstractConnection, queue: str) -> Send:
    exchange = (await connection.channel(publisher_confirms=True)).default_exchange

    async def send(order: Order) -> None:
        message = aio_pika.Message(
            order.model_dump_json().encode(),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            content_type="application/json",
        )
        await exchange.publish(message, routing_key=queue)

    return send


async def consume(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)

    async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        async with message.process():
            handled.one(Order.model_validate_json(message.body))

    async with await aio_pika.connect_robust(task.url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.get_queue(task.name)
        tag = await queue.consume(handle)
        await done.wait()
        await queue.cancel(tag)
    return handled.figures()

"""aio-pika's channel below the surface, with batches by hand: how far the same client library goes.

No framework, no way back after a lost connection, and attributes that are nobody's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aio_pika
import aiormq
from aiormq.abc import ChannelFrame, DeliveredMessage
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from tests.benchmarks.load import PREFETCH, Figures, Handled, drive, pace
from tests.benchmarks.task import Task
from tests.benchmarks.work import Order

ACK_EVERY = 64


async def publish(task: Task) -> Figures:
    async with _channel(task) as channel:
        return await drive(Writes(channel, task.name).send, task.count)


async def paced(task: Task) -> Figures:
    async with _channel(task) as channel:
        return await pace(Writes(channel, task.name).send, task.count)


async def consume(task: Task) -> Figures:
    done = asyncio.Event()
    handled = Handled(task.count, done.set)
    async with _channel(task) as channel:
        unacked = 0

        async def handle(message: DeliveredMessage) -> None:
            nonlocal unacked
            handled.one(Order.model_validate_json(message.body))
            unacked += 1
            if unacked == ACK_EVERY or done.is_set():
                unacked = 0
                assert message.delivery_tag is not None
                await channel.basic_ack(message.delivery_tag, multiple=True, wait=False)

        await channel.basic_qos(prefetch_count=PREFETCH)
        consumer = await channel.basic_consume(task.name, handle)
        await done.wait()
        assert consumer.consumer_tag is not None
        await channel.basic_cancel(consumer.consumer_tag)
    return handled.figures()


@asynccontextmanager
async def _channel(task: Task) -> AsyncIterator[aiormq.Channel]:
    async with await aio_pika.connect_robust(task.url) as connection:
        channel = await (await connection.channel(publisher_confirms=True)).get_underlay_channel()
        assert isinstance(channel, aiormq.Channel)
        yield channel


class Writes:
    """What is sent in one tick of the loop leaves in one write."""

    def __init__(self, channel: aiormq.Channel, queue: str) -> None:
        self._channel = channel
        self._publish = Basic.Publish(exchange="", routing_key=queue, mandatory=True)
        self._properties = Basic.Properties(delivery_mode=2, content_type="application/json")
        self._loop = asyncio.get_running_loop()
        self._batch: list[tuple[bytes, asyncio.Future[object]]] = []

    async def send(self, order: Order) -> None:
        confirmed: asyncio.Future[object] = self._loop.create_future()
        self._batch.append((order.model_dump_json().encode(), confirmed))
        if len(self._batch) == 1:
            self._loop.call_soon(self._write)
        await confirmed

    def _write(self) -> None:
        batch, self._batch = self._batch, []
        channel = self._channel
        frames: list[Basic.Publish | ContentHeader | ContentBody] = []
        for body, confirmed in batch:
            channel.delivery_tag += 1
            channel.confirmations[channel.delivery_tag] = confirmed
            frames += [self._publish, ContentHeader(0, len(body), self._properties), ContentBody(body)]
        channel.write_queue.put_nowait(ChannelFrame.marshall(channel.number, frames))

"""A program with nothing but aio-pika consumes what unibus sends, and sends what unibus consumes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime

import aio_pika
from pydantic import BaseModel

from tests.adapters.rabbitmq.conftest import opened, plain
from tests.brokers import Broker
from unibus import Bus, Message
from unibus.middleware.backoff import constant
from unibus.middleware.retry import retry


class Order(BaseModel):
    id: int


async def test_a_plain_program_consumes_what_unibus_sends(server: Broker, name: Callable[[str], str]) -> None:
    bus, queue = Bus(server.url, name="shop"), name("orders")
    async with plain(server.url) as channel:
        declared = await channel.declare_queue(queue, durable=True)
        async with bus:
            sent_id = await bus.producer(queue, type=Order).send(Order(id=7), key="k", headers={"tenant": "a"})
        message = await declared.get()
        assert message is not None
        await message.ack()
    assert json.loads(message.body) == {"id": 7}
    assert (message.content_type, message.type, message.app_id) == ("application/json", "Order", "shop")
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert message.headers["tenant"] == "a"
    assert message.headers["cloudEvents:id"] == sent_id
    assert message.headers["cloudEvents:partitionkey"] == "k"
    assert isinstance(message.timestamp, datetime)
    assert abs((message.timestamp - datetime.now(UTC)).total_seconds()) < 60


async def test_a_plain_program_binds_to_what_unibus_publishes(server: Broker, name: Callable[[str], str]) -> None:
    bus = Bus(server.url)
    async with bus, plain(server.url) as channel:
        await bus.publisher(name("order.created")).publish(1)  # the exchange is there
        own = await channel.declare_queue(exclusive=True)
        await own.bind("unibus.topics", name("order.*"))
        await bus.publisher(name("order.created")).publish(2)
        message = await own.get()
        assert message is not None
        assert (message.body, message.routing_key) == (b"2", name("order.created"))
        await message.ack()


async def test_unibus_consumes_what_a_plain_program_sends(server: Broker, name: Callable[[str], str]) -> None:
    bus, queue, got = Bus(server.url), name("orders"), list[Message[Order]]()

    @bus.consumer(queue)
    @retry(on=ConnectionError, attempts=2, backoff=constant(1.1))
    async def handle(message: Message[Order]) -> None:
        got.append(message)
        if message.attempt == 1:
            raise ConnectionError

    async with bus.consuming(), plain(server.url) as channel:
        sent = aio_pika.Message(
            b'{"id": 7}', headers={"tenant": "a", "n": 3}, message_id="m-1", correlation_id="c-1", type="Order",
            app_id="legacy", content_type="application/json", timestamp=datetime(2026, 1, 2, tzinfo=UTC),
        )  # fmt: skip
        await channel.default_exchange.publish(sent, queue)
        await until(lambda: len(got) >= 2)
    for message in got:
        assert message.data == Order(id=7)
        assert (message.id, message.correlation_id, message.type, message.source) == ("m-1", "c-1", "Order", "legacy")
        assert message.headers == {"tenant": "a", "n": "3"}
        assert message.timestamp == datetime(2026, 1, 2, tzinfo=UTC)
    assert [message.attempt for message in got] == [1, 2]


async def test_a_bare_message_is_consumed_too(server: Broker, name: Callable[[str], str]) -> None:
    bus, queue, topic, got = Bus(server.url), name("orders"), name("order.new"), list[Message[int]]()

    async def handle(message: Message[int]) -> None:
        got.append(message)

    bus.consumer(queue)(handle)
    bus.subscriber(name("order.*"), group=name("g"))(handle)
    async with bus.consuming(), plain(server.url) as channel:
        await channel.default_exchange.publish(aio_pika.Message(b"1"), queue)
        exchange = await channel.get_exchange("unibus.topics")
        await exchange.publish(aio_pika.Message(b"2"), topic)
        await until(lambda: len(got) >= 2)
    assert {(message.data, message.address) for message in got} == {(1, queue), (2, topic)}
    assert all(message.id and message.native.properties is not None for message in got)


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_unibus_has_no_word_for_is_done_on_its_own_connection(
    server: Broker, name: Callable[[str], str]
) -> None:
    async with opened(server.url) as driver:
        connection = driver.connection
        assert connection is not None
        async with connection.channel() as channel:
            queue = await channel.declare_queue(name("own"), arguments={"x-max-priority": 3})
            await channel.default_exchange.publish(aio_pika.Message(b"hello"), routing_key=queue.name)
            async with queue.iterator() as messages:
                async for message in messages:
                    await message.ack()
                    break
            await queue.delete()
        assert message.body == b"hello"
    assert driver.connection is None
    assert connection.is_closed

"""Programs without unibus, which use redis-py, read what we write and write what we read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from pydantic import BaseModel

from tests.adapters.redis.conftest import plain, until
from tests.brokers import Broker
from unibus import Bus, Message

Name = Callable[[str], str]


class Order(BaseModel):
    id: int
    customer: str = "Zoë"


async def test_a_plain_consumer_reads_what_we_send(server: Broker, name: Name) -> None:
    bus, orders = Bus(server.url, name="shop"), name("orders")
    async with plain(server.url) as client:
        await client.xgroup_create(orders, "theirs", id="0", mkstream=True)
        async with bus:
            await bus.producer(orders, type=Order).send(Order(id=7), key="k", headers={"tenant": "acme"}, id="m-1")
        ((_, ((entry_id, fields),)),) = await client.xreadgroup("theirs", "me", {orders: ">"})
        assert json.loads(fields[b"data"]) == {"id": 7, "customer": "Zoë"}
        assert fields[b"tenant"] == b"acme"
        context = json.loads(fields[b"ce"])
        assert (context["id"], context["type"], context["source"], context["partitionkey"]) == (
            "m-1", "Order", "shop", "k",
        )  # fmt: skip
        assert context["specversion"] == "1.0"
        assert await client.xack(orders, "theirs", entry_id) == 1


async def test_a_plain_producer_writes_what_we_handle(server: Broker, name: Name) -> None:
    bus, orders, got = Bus(server.url), name("orders"), list[Message[Order]]()

    @bus.consumer(orders)
    async def handle(order: Order, message: Message[Order]) -> None:
        got.append(message)

    async with plain(server.url) as client, bus:
        before = await client.xadd(orders, {"data": '{"id": 1}', "tenant": "acme"})
        async with bus.consuming():
            await client.xadd(orders, {"data": '{"id": 2}', "ce": json.dumps({"id": "theirs", "correlationid": "c"})})
            await until(lambda: len(got) == 2)
    first, second = sorted(got, key=lambda message: message.data.id)
    assert (first.data.customer, dict(first.headers), first.id) == ("Zoë", {"tenant": "acme"}, before.decode())
    assert (second.id, second.correlation_id) == ("theirs", "c")


async def test_plain_programs_on_channels(server: Broker, name: Name) -> None:
    bus, topic, got = Bus(server.url.replace("redis:", "redis+pubsub:")), name("news"), list[Message[Order]]()

    @bus.subscriber(topic, guarantee="at_most_once")
    async def handle(order: Order, message: Message[Order]) -> None:
        got.append(message)

    async with plain(server.url) as client, client.pubsub() as theirs, bus, bus.consuming():
        await theirs.subscribe(topic)
        assert (await theirs.get_message(timeout=5))["type"] == "subscribe"
        await client.publish(topic, '{"id": 1}')
        await client.publish(topic, json.dumps({"specversion": "1.0", "id": "e", "data": {"id": 2}}))
        await bus.publisher(topic, type=Order).publish(Order(id=3), headers={"tenant": "acme"})
        await until(lambda: len(got) == 3)
        assert [message.data.id for message in got] == [1, 2, 3]
        assert (got[1].id, got[2].headers["tenant"]) == ("e", "acme")
        heard = [await theirs.get_message(timeout=5) for _ in range(3)]
        event = json.loads(heard[2]["data"])
        assert (event["data"], event["type"], event["specversion"]) == ({"id": 3, "customer": "Zoë"}, "Order", "1.0")


async def test_a_dead_letter_is_read_by_a_plain_program(server: Broker, name: Name) -> None:
    bus, orders = Bus(server.url), name("orders")

    @bus.consumer(orders)
    async def handle(order: Order) -> None: ...

    async with plain(server.url) as client, bus, bus.consuming():
        await client.xadd(orders, {"data": "no order"})

        async def dead() -> bool:
            return bool(await client.xlen(f"{orders}.dlq"))

        await until(dead)
        ((_, fields),) = await client.xrange(f"{orders}.dlq")
        assert fields[b"data"] == b"no order"
        assert "DecodeError" in json.loads(fields[b"ce"])["unibusdlreason"]


async def test_a_queue_of_theirs_by_its_own_name(server: Broker, name: Name) -> None:
    from unibus import Queue

    bus, got = Bus(server.url), list[int]()
    legacy = Queue(name("orders"), physical=f"Legacy:{name('orders')}")

    @bus.consumer(legacy)
    async def handle(order: Order) -> None:
        got.append(order.id)

    async with plain(server.url) as client, bus, bus.consuming():
        await client.xadd(legacy.physical, {"data": '{"id": 5}'})
        await bus.producer(legacy).send(Order(id=6))
        await bus.producer(legacy).send(Order(id=7), delay=0.3)
        async with asyncio.timeout(20):
            await until(lambda: got == [5, 6, 7])

"""Programs that know nothing of unibus read what it writes, and write what it reads. Delays end at the queue."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.adapters.kafka.conftest import opened, out, subscribed, take, until
from tests.adapters.kafka.test_sending import stored
from unibus import Bus, Message
from unibus.driver import Forwarding, Outcome, Queue, Topology
from unibus_kafka import KafkaDriver
from unibus_kafka.delays import UNDELIVERABLE


async def test_a_plain_program_reads_what_we_write(url: str, servers: str, name: Callable[[str], str]) -> None:
    orders = name("orders")
    async with opened(url) as driver:
        await driver.declare(Topology(create=(Queue(orders),)))
        async with Bus(url) as bus:
            await bus.producer(orders).send({"id": 7}, key="k", headers={"trace": "1"})
    async with AIOKafkaConsumer(orders, bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        record = await consumer.getone()
    headers = dict(record.headers)
    assert (json.loads(record.value), record.key, headers["trace"]) == ({"id": 7}, b"k", b"1")
    assert headers["content-type"] == b"application/json"
    assert headers["ce_specversion"] == b"1.0"
    assert {"ce_id", "ce_type", "ce_source"} <= headers.keys()


async def test_we_read_what_a_plain_program_writes(url: str, servers: str, name: Callable[[str], str]) -> None:
    bus, orders, got = Bus(url), name("orders"), list[Message[dict[str, int]]]()

    @bus.consumer(orders)
    async def handle(message: Message[dict[str, int]]) -> None:
        got.append(message)

    event = {"specversion": "1.0", "id": "e1", "type": "order", "source": "/shop", "data": {"id": 2}}
    async with bus, bus.consuming(), AIOKafkaProducer(bootstrap_servers=servers) as producer:
        await producer.send_and_wait(orders, b'{"id": 1}', key=b"k", headers=[("h", b"v")])
        kind = [("content-type", b"application/cloudevents+json")]
        await producer.send_and_wait(orders, json.dumps(event).encode(), headers=kind)
        await until(lambda: len(got) == 2, "both are read")
    first, second = sorted(got, key=lambda message: message.data["id"])
    assert (first.key, dict(first.headers)["h"]) == ("k", "v")
    assert second.id == "e1"


async def test_what_is_delayed_keeps_its_key_and_headers_and_is_moved_without_consumers(
    url: str, servers: str, name: Callable[[str], str]
) -> None:
    queue = Queue(name("later"))
    async with opened(url) as driver, opened(url) as mover:
        assert isinstance(mover, Forwarding)
        await driver.declare(Topology(create=(queue,)))
        message = out(1, "k", delay=1.2)
        message.headers = {"h": "v"}
        began = time.time()
        await driver.send(queue, [message])
        forwarding = asyncio.ensure_future(mover.forward())

        async def there() -> bool:
            return (await driver.depth(queue)).ready == 1

        await until(there, "it is moved")
        assert time.time() - began >= 1.2
        forwarding.cancel()
        await asyncio.wait([forwarding])
        subscription = await subscribed(driver, queue)
        (delivery,) = await take(subscription, 1)
        assert (delivery.key, dict(delivery.headers), delivery.message_id) == ("k", {"h": "v"}, "1")
        await subscription.settle([delivery], Outcome.ACK)
        await subscription.close()


async def test_what_is_delayed_for_a_queue_that_is_gone_is_put_aside(
    url: str, servers: str, name: Callable[[str], str]
) -> None:
    queue = Queue(name("doomed"))
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(n, body=f"{queue.name}-{n}".encode(), delay=3) for n in range(5)])
        await deleted(driver, queue.name)
        async with opened(url) as mover:
            forwarding = asyncio.ensure_future(mover.forward())

            async def aside() -> bool:
                if UNDELIVERABLE not in await driver._cluster.topics([UNDELIVERABLE]):
                    return False
                bodies = {value for _, value in await stored(servers, UNDELIVERABLE)}
                return {f"{queue.name}-{n}".encode() for n in range(5)} <= bodies

            await until(aside, "they are put aside")
            forwarding.cancel()
            await asyncio.wait([forwarding])


async def deleted(driver: KafkaDriver, topic: str) -> None:
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=driver._endpoint.servers)
    await admin.start()
    await admin.delete_topics([topic])
    await admin.close()

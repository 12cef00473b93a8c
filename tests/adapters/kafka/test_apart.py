"""Queues are topics on Kafka, and yet apart from them: no pattern hands out what was sent to a queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiokafka import AIOKafkaProducer

from tests.adapters.kafka.conftest import Events, opened, out, subscribed, take, until
from unibus.driver import Outcome, Queue, TopicSubscription, Topology
from unibus_kafka import KafkaDriver

Name = Callable[[str], str]


async def test_what_was_sent_to_a_queue_is_passed_over_and_done_with(url: str, servers: str, name: Name) -> None:
    """Directly, after a delay, and to a queue of dead letters that is called as its user likes."""
    orders, failed = Queue(name("shop.orders"), partitions=1), Queue(name("shop.failed"), partitions=1)
    group, alone = TopicSubscription((name("shop.#"),), name("mail")), TopicSubscription((name("shop.#"),), None)
    async with opened(url) as driver, opened(url) as queues:
        mail, ear = await subscribed(driver, group), await driver.subscribe(alone, prefetch=10, notify=Events())
        await queues.declare(Topology(create=(orders, failed)))
        consumer, heard = await subscribed(queues, orders), asyncio.ensure_future(take(mail, 3))
        await queues.send(orders, [*[out(n) for n in range(5)], out("late", delay=0.5)])
        await queues.send(failed, [out("dead", topic=name("shop.opened"))])
        await consumer.settle(await take(consumer, 6), Outcome.ACK)

        async def done_with() -> bool:
            return await place_of(driver, group, orders) == 6 and await place_of(driver, group, failed) == 1

        await until(done_with, "the group has passed over them")
        await driver.send(group, [out("again")])
        async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
            await producer.send_and_wait(name("shop.plain"), b"plain")
            await producer.send_and_wait(orders.name, b"plain to the queue")
        assert {delivery.body for delivery in await heard} == {b"again", b"plain", b"plain to the queue"}
        assert {delivery.body for delivery in await take(ear, 2)} == {b"plain", b"plain to the queue"}
        assert not await mail.receive(10, 0.5)
        assert not await ear.receive(10, 0.5)
        for subscription in (mail, ear, consumer):
            await subscription.close()


async def place_of(driver: KafkaDriver, group: TopicSubscription, queue: Queue) -> int | None:
    """How far the group is with the queue's topic."""
    found = await driver._cluster.committed(group.name)
    return next((offset for tp, (offset, _) in found.items() if tp.topic == queue.name), None)

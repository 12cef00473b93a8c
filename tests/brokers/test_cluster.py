"""Three nodes: each may be killed, and what was confirmed stays."""

from __future__ import annotations

import asyncio
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.brokers import broker
from tests.brokers.cluster import Cluster


async def test_what_is_confirmed_survives_the_loss_of_any_node() -> None:
    cluster = broker("kafka-cluster")
    assert isinstance(cluster, Cluster)
    servers, topic = cluster.url.partition("://")[2], f"t{uuid.uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 3, 3)])
    await admin.close()
    sent = set[str]()
    async with AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True) as producer:
        for number in range(1, len(cluster.nodes) + 1):
            await asyncio.to_thread(cluster.kill, number)
            for place in range(20):
                body = f"{number} {place}"
                await asyncio.wait_for(producer.send_and_wait(topic, body.encode(), partition=place % 3), 30)
                sent.add(body)
            await asyncio.to_thread(cluster.start)
    found = set[str]()
    async with AIOKafkaConsumer(topic, bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        async with asyncio.timeout(30):
            while found != sent:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    found |= {record.value.decode() for record in records}


def test_a_node_has_a_number() -> None:
    cluster = broker("kafka-cluster")
    assert isinstance(cluster, Cluster)
    assert [cluster.node(number).port for number in (1, 2, 3)] == [node.port for node in cluster.nodes]

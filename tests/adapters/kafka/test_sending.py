"""Sending: in order, with an outcome of our own, and nothing taken along by another's failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition

from tests.adapters.kafka.conftest import opened, out, subscribed, take, until
from tests.brokers import Broker
from unibus.driver import Queue, Topology
from unibus.errors import BatchError, DestinationNotFound, MessageTooLarge, OutcomeUnknown
from unibus.testing.proxy import FaultProxy
from unibus_kafka import KafkaDriver


async def stored(servers: str, topic: str) -> list[tuple[bytes | None, bytes | None]]:
    """Keys and values of all records, partition by partition, as a program without unibus reads them."""
    async with AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest") as consumer:
        numbers = consumer.partitions_for_topic(topic) or await consumer._client._wait_on_metadata(topic)
        tps = [TopicPartition(topic, number) for number in sorted(numbers)]
        consumer.assign(tps)
        ends, found = await consumer.end_offsets(tps), []
        for tp in tps:
            await consumer.seek_to_beginning(tp)
            while await consumer.position(tp) < ends[tp]:
                for records in (await consumer.getmany(tp, timeout_ms=500)).values():
                    found += [(record.key, record.value) for record in records]
    return found


@asynccontextmanager
async def behind(server: Broker, options: str = "") -> AsyncIterator[tuple[KafkaDriver, FaultProxy]]:
    """A driver that reaches the server, by the listener that is told so, through a proxy alone."""
    port = server.port + 3
    async with (
        FaultProxy(server.host, server.port + 2, listen=port) as proxy,
        opened(f"kafka://127.0.0.1:{port}{options}") as driver,
    ):
        yield driver, proxy


async def test_calls_under_way_together_keep_the_order_of_each_key(
    url: str, servers: str, name: Callable[[str], str]
) -> None:
    queue = Queue(name("orders"), partitions=3)
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await asyncio.gather(
            *[driver.send(queue, [out(f"{call}-{n}", f"k{n % 5}") for n in range(50)]) for call in range(20)]
        )
    found = await stored(servers, queue.name)
    assert len(found) == 1000
    for key in (f"k{n}".encode() for n in range(5)):
        values = [value.decode() for k, value in found if k == key and value is not None]
        expected = [f"{call}-{n}" for call in range(20) for n in range(50) if f"k{n % 5}".encode() == key]
        assert values == expected


async def test_a_record_that_is_too_large_takes_nobody_along(
    url: str, servers: str, name: Callable[[str], str]
) -> None:
    queue = Queue(name("small"), partitions=1)
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(queue.name, 1, 1, topic_configs={"max.message.bytes": "2000"})])
    await admin.close()
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        messages = [out(n, body=b"x" * (5000 if n == 3 else 300)) for n in range(20)]
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, messages)
        assert failed.value.errors.keys() == {3}
        error = failed.value.errors[3]
        assert isinstance(error, MessageTooLarge)
        assert error.size > error.limit == 2000
    assert len(await stored(servers, queue.name)) == 19, "in batches that the topic takes"


async def test_a_limit_that_was_lowered_meanwhile_splits_the_batch(
    url: str, servers: str, server: Broker, name: Callable[[str], str]
) -> None:
    queue = Queue(name("shrinking"), partitions=1)
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out("first")])
        driver._topics.limits[queue.name] = 10_000_000  # as if it had been that when we asked
        messages = [out(n, body=b"x" * 400_000) for n in range(6)]
        messages.insert(3, out("huge", body=b"x" * 1_500_000))
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, messages)
        assert failed.value.errors.keys() == {3}
        assert isinstance(failed.value.errors[3], MessageTooLarge)
        await driver.send(queue, [out("after")])
    assert len(await stored(servers, queue.name)) == 8


async def test_without_an_answer_the_outcome_is_unknown_and_later_messages_are_stored(
    server: Broker, servers: str, name: Callable[[str], str]
) -> None:
    queue = Queue(name("orders"), partitions=1)
    async with behind(server, "?timeout=1.5") as (driver, proxy):
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out("before")])
        proxy.freeze()
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, [out("unknown")])
        assert isinstance(failed.value.errors[0], OutcomeUnknown)
        proxy.heal()

        async def sends() -> bool:
            with suppress(BatchError):
                await driver.send(queue, [out("after")])
                return True
            return False

        await until(sends, "it sends again")
    values = [value for _, value in await stored(servers, queue.name)]
    assert values[0] == b"before"
    assert values[-1] == b"after"
    assert values.count(b"unknown") <= 1


async def test_a_lost_answer_makes_no_duplicate(server: Broker, servers: str, name: Callable[[str], str]) -> None:
    queue = Queue(name("orders"), partitions=1)
    async with behind(server) as (driver, proxy):
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out("first")])
        for number in range(5):
            dropped = proxy.drop_reply()
            await driver.send(queue, [out(number)])
            assert dropped.is_set()
    assert [value for _, value in await stored(servers, queue.name)] == [b"first", *[b"%d" % n for n in range(5)]]


async def test_an_unknown_identity_is_replaced_and_loses_nothing(
    url: str, servers: str, name: Callable[[str], str]
) -> None:
    queue = Queue(name("orders"), partitions=1)
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(0)])
        (line,) = driver._producer._lines.values()
        line.sequence += 7  # the broker misses what we think is stored
        await driver.send(queue, [out(1)])
        await asyncio.gather(*[driver.send(queue, [out(n)]) for n in range(2, 30)])
    assert [value for _, value in await stored(servers, queue.name)] == [b"%d" % n for n in range(30)]


async def test_a_name_that_nobody_declared_is_not_found_and_not_made(
    url: str, servers: str, name: Callable[[str], str]
) -> None:
    typo = Queue(name("tpyo"))
    async with opened(url) as driver:
        for _ in range(2):
            with pytest.raises(BatchError) as failed:
                await driver.send(typo, [out(1)])
            assert isinstance(failed.value.errors[0], DestinationNotFound)
        with pytest.raises(DestinationNotFound):
            await driver.declare(Topology(verify=(typo,)))
        with pytest.raises(DestinationNotFound):
            await driver.depth(typo)
        assert typo.name not in await driver._cluster.topics()


async def test_a_topic_that_is_deleted_is_not_found_and_found_again_when_it_is_back(
    url: str, servers: str, name: Callable[[str], str]
) -> None:
    queue = Queue(name("orders"), partitions=1)
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(1)])
        await admin.delete_topics([queue.name])

        async def refused() -> bool:
            try:
                await driver.send(queue, [out(2)])
            except BatchError as failed:
                return isinstance(failed.errors[0], DestinationNotFound)
            return False

        await until(refused, "it is missed")
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(3)])
    await admin.close()
    assert [value for _, value in await stored(servers, queue.name)] == [b"3"]


@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_compressed_batches_arrive(url: str, name: Callable[[str], str], compression: str) -> None:
    queue = Queue(name("orders"))
    async with opened(f"{url}&compression={compression}") as driver:
        subscription = await subscribed(driver, queue)
        await driver.send(queue, [out(n, body=b"x" * 1000) for n in range(50)])
        assert {delivery.body for delivery in await take(subscription, 50)} == {b"x" * 1000}
        await subscription.close()

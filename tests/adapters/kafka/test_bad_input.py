"""What a user gets wrong: one typed error that says what to do, soon, with nothing sent and no secret shown."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.adapters.kafka.conftest import opened, subscribed, take
from tests.brokers import Broker
from unibus import Bus
from unibus.driver import Queue, SystemClock, Topic, Topology, Url
from unibus.errors import AccessDenied, ConfigurationError, ConnectionLost, DestinationNotFound, TopologyMismatch
from unibus_kafka import KafkaDriver


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://h?partition=3", "did you mean 'partitions'"),
        ("kafka://h?partitions=0", "partitions"),
        ("kafka://h?compression=zip", "compression"),
        ("kafka://h/path", "no path"),
        ("kafka://u:hushhush@h?sasl=plain", "tls=on"),
        ("kafka://h?sasl=scram-sha-256", "a user and a password"),
        ("kafka://h?sasl=oauthbearer&tls=on", "tokenfile"),
        ("kafka://u:hushhush@h?tokenfile=/x", "oauthbearer"),
        ("kafka://h?cafile=/nowhere.pem", "tls=on"),
        ("kafka://h?tls=on&cafile=/nowhere.pem", "PEM"),
        ("kafka://h?tls=on&keyfile=/nowhere.pem", "certfile"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        KafkaDriver(Url(url), SystemClock())
    assert says in str(refused.value)
    assert "hushhush" not in str(refused.value)


def test_several_servers_are_one_cluster() -> None:
    endpoint = KafkaDriver(Url("kafka://u:secret@a:1,b,[::1]:3"), SystemClock())._endpoint
    assert endpoint.servers == ["a:1", "b:9092", "[::1]:3"]
    assert endpoint.security["sasl_mechanism"] == "SCRAM-SHA-512"
    assert "secret" not in repr(endpoint)


async def refused(url: str) -> tuple[Exception, float]:
    began = time.monotonic()
    with pytest.raises(Exception) as error:  # noqa: PT011 - looked at by the caller
        async with opened(url):
            pass
    return error.value, time.monotonic() - began


async def test_where_nothing_listens_it_is_said_soon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error, took = await refused(f"kafka://127.0.0.1:{taken.getsockname()[1]}")
    assert isinstance(error, ConnectionLost)
    assert "check host, port" in str(error)
    assert took < 30


async def test_a_host_that_is_not_there_is_said_soon_and_another_is_tried(server: Broker) -> None:
    error, took = await refused("kafka://user:hushhush@no-such-host.invalid,also-not.invalid")
    assert isinstance(error, ConnectionLost)
    assert "check host, port" in str(error)
    assert "hushhush" not in str(error)
    assert took < 30
    async with opened(f"kafka://no-such-host.invalid,127.0.0.1:{server.port}"):
        pass


async def test_what_is_no_kafka_is_said_soon() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        error, took = await refused(f"kafka://127.0.0.1:{silent.getsockname()[1]}")
    assert isinstance(error, ConnectionLost)
    assert took < 30


async def test_an_advertised_address_that_leads_nowhere_is_named(server: Broker) -> None:
    error, took = await refused(f"kafka://127.0.0.1:{server.port + 2}")  # it says port + 3, where nothing listens
    assert isinstance(error, ConnectionLost)
    assert f"127.0.0.1:{server.port + 3}" in str(error)
    assert "advertised.listeners" in str(error)
    assert took < 30


async def test_a_login_that_the_server_does_not_offer_is_said_soon(server: Broker) -> None:
    error, took = await refused(f"kafka://user:hushhush@127.0.0.1:{server.port}")
    assert isinstance(error, AccessDenied)
    assert "hushhush" not in str(error)
    assert "sasl=" in str(error)
    assert took < 30


async def test_partitions_that_contradict_what_exists_are_named(
    url: str, servers: str, name: Callable[[str], str]
) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(name("orders"), 3, 1)])
    await admin.close()
    async with opened(url) as driver:
        with pytest.raises(TopologyMismatch) as mismatch:
            await driver.declare(Topology(create=(Queue(name("orders"), partitions=5),)))
        assert "partitions=3, not partitions=5" in str(mismatch.value)
        await driver.declare(Topology(create=(Queue(name("orders"), partitions=3),)))
    async with opened(f"{url}&replication=3") as driver:
        with pytest.raises(TopologyMismatch) as mismatch:
            await driver.declare(Topology(create=(Queue(name("orders")),)))
        assert "replication=1, not replication=3" in str(mismatch.value)
        with pytest.raises(TopologyMismatch) as mismatch:
            await driver.declare(Topology(create=(Queue(name("more")),)))
        assert "fewer" in str(mismatch.value) or "brokers" in str(mismatch.value)


async def test_a_queue_and_a_topic_of_one_name_are_refused(url: str, name: Callable[[str], str]) -> None:
    async with opened(url) as driver:
        await driver.declare(Topology(create=(Queue(name("orders")),)))
        with pytest.raises(ConfigurationError) as refusal:
            await driver.declare(Topology(create=(Topic(name("orders")),)))
        assert "both as a queue and as a topic" in str(refusal.value)


async def test_with_creation_off_a_missing_queue_is_said_at_start(url: str, name: Callable[[str], str]) -> None:
    bus = Bus(url, declare="verify")

    @bus.consumer(name("orders"))
    async def handle(number: int) -> None:
        pass

    with pytest.raises(DestinationNotFound):
        async with bus, bus.consuming():
            pass


async def test_with_creation_off_a_missing_group_is_said_and_nothing_is_made(
    url: str, name: Callable[[str], str]
) -> None:
    bus = Bus(url, declare="verify")

    @bus.subscriber(name("user.created"), group=name("mail"))
    async def handle(number: int) -> None:
        pass

    with pytest.raises(DestinationNotFound, match="start its consumer once"):
        async with bus, bus.consuming():
            pass
    with pytest.raises(DestinationNotFound):
        async with Bus(url, declare="verify") as sending:
            await sending.producer(name("orders")).send(1)
    async with opened(url) as driver:
        assert not [topic for topic in await driver._cluster.topics() if name("")[:-1] in topic]


async def test_a_record_larger_than_what_is_read_at_once_arrives(
    url: str, servers: str, name: Callable[[str], str]
) -> None:
    """By a plain program, into a topic that takes it."""
    queue, admin = Queue(name("large"), partitions=1), AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(queue.name, 1, 1, topic_configs={"max.message.bytes": "5000000"})])
    await admin.close()
    async with opened(url) as driver, AIOKafkaProducer(bootstrap_servers=servers, max_request_size=5_000_000) as plain:
        subscription = await subscribed(driver, queue)
        for value in (b"before", b"x" * 3_000_000, b"after"):
            await plain.send_and_wait(queue.name, value)
        assert [len(delivery.body) for delivery in await take(subscription, 3)] == [6, 3_000_000, 5]
        await subscription.close()

"""What is wrong with a URL, or with the rights behind it: one typed error, soon, that shows no secret."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.adapters.redis.conftest import Events, another, ids, opened, out, plain, take, until
from tests.brokers import Broker
from unibus import Bus
from unibus.driver import Outcome, Queue, SystemClock, Topic, TopicSubscription, Topology, Url
from unibus.errors import (
    AccessDenied,
    BatchError,
    ConfigurationError,
    ConnectionLost,
    NotSent,
    Rejected,
    TopologyMismatch,
    UnibusError,
)  # fmt: skip
from unibus.testing.proxy import FaultProxy
from unibus_redis import connect

CANARY = "c4n4ry-s3cr3t"

Name = Callable[[str], str]


def with_login(server: Broker, user: str, rest: str = "/0") -> str:
    return f"redis://{user}:{CANARY}@{server.host}:{server.port}{rest}"


async def refused(url: str, expected: type[UnibusError], caplog: pytest.LogCaptureFixture) -> UnibusError:
    """The error with which opening ends: within 5 s, after one attempt, without the secret anywhere."""
    began = time.monotonic()
    bus = Bus(url)
    with caplog.at_level(logging.DEBUG), pytest.raises(expected) as caught:
        async with bus:
            pass
    assert time.monotonic() - began < 5
    shown = "".join(traceback.format_exception(caught.value)) + repr(bus)
    assert CANARY not in shown
    assert all(CANARY not in logging.Formatter().format(record) for record in caplog.records)
    return caught.value


async def test_a_wrong_password(server: Broker, caplog: pytest.LogCaptureFixture) -> None:
    error = await refused(with_login(server, "nobody"), AccessDenied, caplog)
    assert "WRONGPASS" in str(error)
    assert "check user name and password" in str(error)


async def test_a_password_is_wanted(server: Broker, caplog: pytest.LogCaptureFixture) -> None:
    cli = ["-a", CANARY]
    async with another(server, "--requirepass", CANARY, cli=cli) as port:
        error = await refused(f"redis://127.0.0.1:{port}/0", AccessDenied, caplog)
        assert "NOAUTH" in str(error)
        async with opened(f"redis://:{CANARY}@127.0.0.1:{port}/0"):
            pass


async def test_nobody_listens(caplog: pytest.LogCaptureFixture, unused_tcp_port: int) -> None:
    error = await refused(f"redis://user:{CANARY}@127.0.0.1:{unused_tcp_port}/", ConnectionLost, caplog)
    assert "check host and port" in str(error)


async def test_a_host_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    await refused(f"redis://user:{CANARY}@no-such-host.invalid/", ConnectionLost, caplog)


@asynccontextmanager
async def listening(said: bytes | None) -> AsyncIterator[int]:
    """A server that always says the same; or nothing at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            if said is not None:
                writer.write(said)
            if said == b"":
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "check host and port"),
        (b"", "check host and port"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "MASTERDOWN"),
        (b"-ERR max number of clients reached\r\n", "max number of clients"),
    ],
    ids=["http", "closes", "loading", "masterdown", "full"],
)
async def test_what_answers_is_no_server_that_serves(said: bytes, told: str, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(said) as port:
        error = await refused(f"redis://127.0.0.1:{port}/0", ConnectionLost, caplog)
    assert told in str(error)


async def test_a_server_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(None) as port:
        await refused(f"redis://:{CANARY}@127.0.0.1:{port}/0?timeout=1", ConnectionLost, caplog)


async def test_tls_to_a_plain_port(server: Broker, caplog: pytest.LogCaptureFixture) -> None:
    error = await refused(f"rediss://127.0.0.1:{server.port}/0", ConnectionLost, caplog)
    assert "TLS" in str(error)


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://:c4n4ry-s3cr3t@h/0?leese=3", "did you mean 'lease'"),
        ("redis://:c4n4ry-s3cr3t@h/0?lease=0.1", "lease"),
        ("redis://:c4n4ry-s3cr3t@h/orders", "the path is the number of a database"),
        ("redis://h/0/1", "the path is the number of a database"),
        ("redis://h1,h2/0", "several hosts"),
        ("redis://h/0?insecure=1", "rediss://"),
        ("redis://h/0?sentinel_password=c4n4ry-s3cr3t", "redis+sentinel://"),
        ("rediss://h/0?keyfile=k", "certfile"),
        ("rediss://h/0?cafile=/no/such/file", "cannot be used"),
        ("redis+sentinel://h1,h2", "the path names the master"),
        ("redis+cluster://h1,h2/3", "no databases but 0"),
    ],
)
def test_a_url_that_cannot_be_meant(url: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(told)) as caught:
        connect(Url(url), SystemClock())
    assert CANARY not in str(caught.value)


async def limited(client: Any, user: str, *rights: str) -> None:
    await client.execute_command("ACL", "SETUSER", user, "reset", "on", f">{CANARY}", *rights)


async def test_rights_that_are_lacking_are_named(server: Broker, name: Name, caplog: pytest.LogCaptureFixture) -> None:
    queue, user = Queue(name("orders")), name("user")
    async with plain(server.url) as client, opened(server.url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await limited(client, user, "+@all", "-xadd", "~*", "&*")
        try:
            async with opened(with_login(server, user)) as poor:
                with pytest.raises(BatchError) as failed:
                    await poor.send(queue, [out("1"), out("2")])
                assert [type(error) for error in failed.value.errors.values()] == [Rejected] * 2
                assert "NOPERM" in str(failed.value)
            await limited(client, user, "+@all", "~elsewhere*", "&*")
            async with opened(with_login(server, user)) as poor:
                with pytest.raises(AccessDenied, match="NOPERM"):
                    await poor.declare(Topology(create=(queue,)))
            await limited(client, user, "+@all", "-info", "~*", "&*")
            async with opened(with_login(server, user)) as poor:
                assert poor.capabilities.confirmed == "memory"
            assert any("does not let us ask" in record.getMessage() for record in caplog.records)
            assert await client.xlen(queue.name) == 0
        finally:
            await client.execute_command("ACL", "DELUSER", user)


async def test_rights_that_are_taken_away_are_told_once_and_asked_for_again_later(server: Broker, name: Name) -> None:
    queue, user, events = Queue(name("orders")), name("user"), Events()
    async with plain(server.url) as client:
        await limited(client, user, "+@all", "~*", "&*")
        try:
            async with opened(with_login(server, user, "/0?timeout=30")) as driver:
                await driver.declare(Topology(create=(queue,)))
                subscription = await driver.subscribe(queue, prefetch=1, notify=events)
                receiving = asyncio.ensure_future(take(subscription, 1, 30))
                await asyncio.sleep(0)
                await client.execute_command("ACL", "SETUSER", user, "resetpass")
                await client.execute_command("CLIENT", "KILL", "USER", user)
                await until(lambda: bool(events))
                began = time.monotonic()
                with pytest.raises(BatchError):
                    await driver.send(queue, [out("1")])
                assert time.monotonic() - began < 10, "it is not tried again and again"
                await limited(client, user, "+@all", "~*", "&*")
                await driver.send(queue, [out("2")])
                assert ids(await receiving) == ["2"]
                assert events.kinds == ["Disconnected", "Reconnected"]
        finally:
            await client.execute_command("ACL", "DELUSER", user)


async def test_a_key_of_another_type_is_named(server: Broker, name: Name) -> None:
    queue, group, other = Queue(name("orders")), TopicSubscription((name("a.b"),), name("group")), Queue(name("fine"))
    stream = f"{{unibus}}.group.{group.group}"
    async with plain(server.url) as client, opened(server.url) as driver:
        await client.set(queue.name, "a text")
        with pytest.raises(TopologyMismatch, match="WRONGTYPE"):
            await driver.declare(Topology(create=(queue,)))
        with pytest.raises(TopologyMismatch, match="holds a string, not a stream"):
            await driver.declare(Topology(verify=(queue,)))
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, [out("1")])
        assert isinstance(failed.value.errors[0], Rejected)
        await driver.declare(Topology(create=(group, other)))
        await client.delete(stream)
        await client.set(stream, "a text")
        with pytest.raises(BatchError) as failed:
            await driver.send(Topic(name("a.b")), [out("1")])
        assert isinstance(failed.value.errors[0], Rejected)
        assert stream in str(failed.value)
        await driver.send(Topic(name("elsewhere")), [out("1")])
        await client.delete(stream)
        await client.hdel("{unibus}.groups", stream)
        await client.incr("{unibus}.version")


async def test_a_replica_takes_nothing_and_says_so(server: Broker, name: Name) -> None:
    queue = Queue(name("orders"))
    async with opened(server.url) as driver, another(server, "--replicaof", f"127.0.0.1 {server.port}") as port:
        await driver.declare(Topology(create=(queue,)))
        async with plain(f"redis://127.0.0.1:{port}/0") as replica, opened(f"redis://127.0.0.1:{port}/0") as wrong:
            await until(lambda: has(replica, queue.name))
            began = time.monotonic()
            with pytest.raises(BatchError) as failed:
                await wrong.send(queue, [out("1")])
            assert isinstance(failed.value.errors[0], NotSent)
            assert "READONLY" in str(failed.value)
            assert time.monotonic() - began < 5
            with pytest.raises(ConnectionLost, match="READONLY"):
                await wrong.declare(Topology(create=(Queue(name("other")),)))


async def test_a_server_that_becomes_a_replica_is_left_and_found_again(server: Broker, name: Name) -> None:
    """Behind a name that by now may stand for another server."""
    queue = Queue(name("orders"))
    async with (
        another(server) as port,
        FaultProxy("127.0.0.1", port) as proxy,
        plain(f"redis://127.0.0.1:{port}") as client,
        opened(proxy.url("redis://127.0.0.1/0?timeout=1")) as driver,
    ):
        await driver.declare(Topology(create=(queue,)))
        known = proxy.connections
        await client.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(BatchError) as failed:
            await driver.send(queue, [out("1")])
        assert isinstance(failed.value.errors[0], NotSent)
        assert proxy.connections > known
        await client.execute_command("REPLICAOF", "NO", "ONE")
        await driver.send(queue, [out("2")])
        assert await client.xlen(queue.name) == 1


async def has(client: Any, key: str) -> bool:
    return bool(await client.exists(key))


async def test_a_server_without_memory_refuses_and_what_it_holds_is_consumed(server: Broker, name: Name) -> None:
    queue, later = Queue(name("orders")), Queue(name("later"))
    async with another(server, "--appendonly", "yes") as port:
        url = f"redis://127.0.0.1:{port}/0"
        async with opened(url) as driver, plain(url) as client:
            await driver.declare(Topology(create=(queue, later)))
            await driver.send(queue, [out(str(n)) for n in range(10)])
            await driver.send(later, [out("delayed", delay=0.5)])
            await client.config_set("maxmemory", "1mb")
            for address, message in ((queue, out("refused")), (later, out("refused", delay=1))):
                with pytest.raises(BatchError) as failed:
                    await driver.send(address, [message])
                assert isinstance(failed.value.errors[0], Rejected)
                assert "OOM" in str(failed.value)
            subscription = await driver.subscribe(queue, prefetch=10, notify=Events())
            await subscription.settle(await take(subscription, 10), Outcome.ACK)
            waiting = await driver.subscribe(later, prefetch=10, notify=Events())
            assert not await waiting.receive(1, 1.0), "it is due, and cannot be moved"
            await client.config_set("maxmemory", "0")
            assert ids(await take(waiting, 1)) == ["delayed"]
            assert (await driver.depth(queue)).ready == 0

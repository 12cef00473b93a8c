"""What is wrong with a URL, or with the rights behind it: one typed error, soon, that shows no secret."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.adapters.rabbitmq.conftest import opened, plain
from tests.brokers import Broker
from tests.brokers.certificates import self_signed
from unibus import Bus, retry
from unibus.dead_letters import DeadLetter
from unibus.driver import Queue, SystemClock, Topology, Url
from unibus.errors import (
    AccessDenied,
    ConfigurationError,
    ConnectionLost,
    DestinationNotFound,
    TopologyMismatch,
    UnibusError,
)  # fmt: skip
from unibus_rabbitmq import RabbitDriver

CANARY = "c4n4ry-s3cr3t"


def with_login(url: str, user: str = "nobody", path: str = "/") -> str:
    parts = urlsplit(url)
    return f"amqp://{user}:{CANARY}@{parts.hostname}:{parts.port}{path}"


async def refused(url: str, expected: type[UnibusError], caplog: pytest.LogCaptureFixture) -> UnibusError:
    """The error with which opening ends: within 5 s, after one attempt, without the secret anywhere."""
    began = time.monotonic()
    bus = Bus(url)
    with caplog.at_level(logging.DEBUG), pytest.raises(expected) as caught:
        async with bus:
            pass
    assert time.monotonic() - began < 5
    assert "amqp" in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value)) + repr(bus)
    assert CANARY not in shown
    assert all(CANARY not in logging.Formatter().format(record) for record in caplog.records)
    return caught.value


async def test_a_wrong_password(server: Broker, caplog: pytest.LogCaptureFixture) -> None:
    error = await refused(with_login(server.url, "guest"), AccessDenied, caplog)
    assert "check user name and password" in str(error)
    assert "***@" in str(error)


async def test_a_wrong_virtual_host(server: Broker, caplog: pytest.LogCaptureFixture) -> None:
    error = await refused(server.url.rstrip("/") + "/nowhere", DestinationNotFound, caplog)
    assert "vhost nowhere not found" in str(error)


async def test_nobody_listens(caplog: pytest.LogCaptureFixture, unused_tcp_port: int) -> None:
    url = f"amqp://user:{CANARY}@127.0.0.1:{unused_tcp_port}/"
    error = await refused(url, ConnectionLost, caplog)
    assert "check host and port" in str(error)


async def test_a_host_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    await refused(f"amqp://user:{CANARY}@no-such-host.invalid/", ConnectionLost, caplog)


@asynccontextmanager
async def listening(
    answer: Callable[[bytes], bytes | None], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server that answers what comes first; to nothing it says nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = answer(await reader.read(1000))
        if said is None:
            await reader.read()
        else:
            writer.write(said)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_an_http_server(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(lambda _: b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n") as port:
        error = await refused(f"amqp://user:{CANARY}@127.0.0.1:{port}/", ConnectionLost, caplog)
    assert "no AMQP 0-9-1 server" in str(error)
    assert "HTTP/1.1" in str(error)


async def test_a_server_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(lambda _: None) as port:
        error = await refused(f"amqp://user:{CANARY}@127.0.0.1:{port}/?connect_timeout=1", ConnectionLost, caplog)
    assert "within 1 s" in str(error)


async def test_a_server_that_closes_at_once(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(lambda _: b"") as port:
        await refused(f"amqp://user:{CANARY}@127.0.0.1:{port}/", ConnectionLost, caplog)


async def test_tls_to_a_plain_port(server: Broker, caplog: pytest.LogCaptureFixture) -> None:
    error = await refused(with_login(server.url).replace("amqp:", "amqps:"), ConnectionLost, caplog)
    assert "is this a TLS port?" in str(error)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Signed by itself, for 127.0.0.1."""
    return self_signed(tmp_path_factory.mktemp("certificate"))


def server_side(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


async def test_plain_amqp_to_a_tls_port(caplog: pytest.LogCaptureFixture) -> None:
    alert = b"\x15\x03\x01\x00\x02\x02\x46"
    async with listening(lambda _: alert) as port:
        error = await refused(f"amqp://user:{CANARY}@127.0.0.1:{port}/", ConnectionLost, caplog)
    assert "use amqps://" in str(error)


async def test_a_certificate_that_nobody_vouches_for(
    certificate: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    async with listening(lambda _: b"", server_side(certificate)) as port:
        error = await refused(f"amqps://user:{CANARY}@127.0.0.1:{port}/", ConnectionLost, caplog)
    assert "cafile=" in str(error)


async def test_tls_is_verified_by_cafile_and_can_be_had_without(server: Broker, certificate: tuple[Path, Path]) -> None:
    """Through a tunnel that ends TLS before the broker."""
    parts = urlsplit(server.url)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            return
        finally:
            writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer))

    outer = await asyncio.start_server(tunnel, "127.0.0.1", 0, ssl=server_side(certificate))
    port = outer.sockets[0].getsockname()[1]
    for option in (f"cafile={certificate[0]}", "insecure=on"):
        async with opened(f"amqps://guest:guest@127.0.0.1:{port}/?{option}") as driver:
            await driver.declare(Topology())
    outer.close()


async def test_a_queue_with_other_arguments(server: Broker, name: Callable[[str], str]) -> None:
    queue = name("orders")
    async with plain(server.url) as channel:
        await channel.declare_queue(queue, durable=True, arguments={"x-max-length": 5, "x-queue-type": "quorum"})
    async with opened(server.url + "?queue_type=quorum") as driver:
        with pytest.raises(TopologyMismatch, match=r"exists with x-max-length='5'|x-max-length.*not"):
            await driver.declare(Topology(create=(Queue(queue),)))
        await driver.declare(Topology(verify=(Queue(queue),)))
    async with plain(server.url) as channel:
        await channel.queue_delete(queue)


async def test_a_queue_of_another_order(server: Broker, name: Callable[[str], str]) -> None:
    queue = name("orders")
    async with opened(server.url) as driver:
        await driver.declare(Topology(create=(Queue(queue),)))
        for topology in (Topology(create=(Queue(queue, "key"),)), Topology(verify=(Queue(queue, "key"),))):
            with pytest.raises(TopologyMismatch, match="x-single-active-consumer"):
                await driver.declare(topology)


async def test_no_right_to_declare(newest: Broker, name: Callable[[str], str]) -> None:
    if not newest.ours:
        pytest.skip("needs a server whose users it may make")
    user = name("reader").replace(".", "-")
    for command in (["add_user", user, CANARY], ["set_permissions", user, "^$", ".*", ".*"]):
        await asyncio.to_thread(newest.admin, "rabbitmqctl", *command)
    async with opened(newest.url) as driver:
        await driver.declare(Topology(create=(Queue(name("there")),)))
    async with opened(with_login(newest.url, user)) as driver:
        with pytest.raises(AccessDenied, match="configure access") as caught:
            await driver.declare(Topology(create=(Queue(name("new")),)))
        assert CANARY not in str(caught.value)
        await driver.declare(Topology(verify=(Queue(name("there")),)))


async def test_a_secret_is_in_no_log_and_no_dead_letter(
    newest: Broker, name: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """Of a program that runs as that user, and whose handler fails with an error about such a URL."""
    if not newest.ours:
        pytest.skip("needs a server whose users it may make")
    user, queue = name("worker").replace(".", "-"), name("orders")
    for command in (["add_user", user, CANARY], ["set_permissions", user, ".*", ".*", ".*"]):
        await asyncio.to_thread(newest.admin, "rabbitmqctl", *command)
    url = with_login(newest.url, user)
    bus = Bus(url)

    @bus.consumer(queue)
    @retry(on=ConnectionError, attempts=1)
    async def handle(number: int) -> None:
        async with Bus(with_login(newest.url, "nobody")):
            pass

    with caplog.at_level(logging.DEBUG):
        async with bus.consuming():
            await bus.producer(queue).send(1)
            async with bus.pull(queue=f"{queue}.dlq", type=bytes) as letters:
                letter = await letters.next(20)
                assert letter is not None
                await letter.ack()
    record = DeadLetter.from_attributes(letter.message.attributes)
    assert record is not None
    assert record.error_type == "unibus.errors.AccessDenied"
    assert "***@" in record.message
    assert CANARY not in repr(letter.message.attributes) + repr(letter.message.native.properties) + repr(bus)
    shown = [logging.Formatter().format(entry) for entry in caplog.records]
    assert any(user in line for line in shown), "what connects is logged at DEBUG, so that the check can fail"
    assert not [line for line in shown if CANARY in line]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("amqp://h/?heartbeets=5", "did you mean 'heartbeat'"),
        ("amqp://h/?heartbeat=0", "heartbeat"),
        ("amqp://h/?insecure=on", "for amqps://"),
        ("amqp://h/a/b", "%2F"),
        ("amqps://h/?keyfile=k", "certfile"),
        ("amqp://h/?no_verify_ssl=1", "no_verify_ssl"),
    ],
)
def test_options_that_cannot_be_meant(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RabbitDriver(Url(url), SystemClock())


async def test_a_consumer_timeout_that_the_server_ignores(newest: Broker, server: Broker) -> None:
    url = server.url + "?consumer_timeout=7200"
    if server.version < "3.12":
        with pytest.raises(ConfigurationError, match="ignores it"):
            async with opened(url):
                pass
    else:
        async with opened(url) as driver:
            assert driver.capabilities.hold == 2400

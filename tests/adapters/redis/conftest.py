"""Servers, and names that one test alone uses."""

from __future__ import annotations

import asyncio
import random
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.brokers import Broker, broker
from unibus.driver import Delivery, DriverEvent, Outbound, Subscription, SystemClock, Url
from unibus.testing.proxy import FaultProxy
from unibus_redis import connect, connect_pubsub
from unibus_redis.driver import RedisDriver


@pytest.fixture(params=["redis", "redis-7"])
def server(request: pytest.FixtureRequest) -> Broker:
    """Each version in turn."""
    return broker(request.param)


@pytest.fixture
def newest() -> Broker:
    return broker("redis")


@pytest.fixture
def name() -> Callable[[str], str]:
    prefix = f"t{uuid.uuid4().hex[:8]}"
    return lambda word: f"{prefix}.{word}"


@pytest_asyncio.fixture
async def proxy(server: Broker) -> AsyncIterator[FaultProxy]:
    async with FaultProxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture
def url(server: Broker, proxy: FaultProxy) -> str:
    return proxy.url(server.url)


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisDriver]:
    made = (connect_pubsub if "+pubsub" in url else connect)(Url(url), SystemClock())
    assert isinstance(made, RedisDriver)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[Any]:
    """The client of a program without unibus, which types its answers as all that any command may answer."""
    async with Redis.from_url(url) as client:
        yield client


@asynccontextmanager
async def another(server: Broker, *options: str, port: int = 0, cli: Sequence[str] = ()) -> AsyncIterator[int]:
    """The port of one more redis-server beside the broker's, in its container, with other options.

    cli: what redis-cli needs to reach it.
    """
    if not server.ours:
        pytest.skip("needs a container in which it may start another server")
    port = port or free_port()
    folder = f"/tmp/redis-{port}"
    server.admin("mkdir", "-p", folder)
    usual = ["--port", str(port), "--bind", "127.0.0.1", "--daemonize", "yes", "--dir", folder, "--save", ""]
    server.admin("redis-server", *usual, "--pidfile", f"{folder}/pid", "--logfile", f"{folder}/log", *options)
    try:
        await until(lambda: answers(server, ["-p", str(port), *cli]))
        yield port
    finally:
        await asyncio.to_thread(server.admin, "sh", "-c", f"kill -9 $(cat {folder}/pid) || true; rm -rf {folder}")


def answers(server: Broker, cli: Sequence[str]) -> bool:
    try:
        return "PONG" in server.admin("redis-cli", *cli, "ping")
    except RuntimeError:
        return False


def free_port() -> int:
    """One whose bus of a cluster, at 10,000 more, is free, too."""
    while True:
        port = random.randrange(20_000, 30_000)
        if all(is_free(each) for each in (port, port + 10_000)):
            return port


def is_free(port: int) -> bool:
    with socket.socket() as probing:
        try:
            probing.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Events(list[DriverEvent]):
    """A `notify` that remembers."""

    def __call__(self, event: DriverEvent) -> None:
        self.append(event)

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self]


def out(message_id: str, **more: Any) -> Outbound:
    message = Outbound(message_id.encode(), {"type": "t"}, {}, None, message_id)
    for field, value in more.items():
        setattr(message, field, value)
    return message


async def take(subscription: Subscription, count: int, seconds: float = 15) -> list[Delivery]:
    """Exactly so many deliveries."""
    got: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while len(got) < count:
            got += await subscription.receive(count - len(got), 1.0)
    return got


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.message_id for delivery in deliveries]


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.01)

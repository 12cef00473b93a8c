"""A server, and names that one test alone uses."""

from __future__ import annotations

import asyncio
import gc
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import Broker, broker
from unibus.driver import DriverEvent, Outbound, Queue, SystemClock, TopicSubscription, Topology, Url
from unibus_kafka import KafkaDriver
from unibus_kafka.subscription import KafkaSubscription


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The client leaves open what it was connecting when it was closed."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for what in ("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"):
                item.add_marker(pytest.mark.filterwarnings(what))


@pytest.fixture(autouse=True)
def _litter() -> Iterator[None]:
    """To be found here, not in a later test."""
    yield
    gc.collect()


@pytest.fixture
def server() -> Broker:
    return broker("kafka")


@pytest.fixture
def servers(server: Broker) -> str:
    """As the client library takes them."""
    return f"{server.host}:{server.port}"


@pytest.fixture
def url(server: Broker) -> str:
    return f"{server.url}?session=5&revoke=3&metadata_age=0.5&partitions=2"


@pytest.fixture
def name() -> Callable[[str], str]:
    prefix = f"t{uuid.uuid4().hex[:8]}"
    return lambda word: f"{prefix}.{word}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[KafkaDriver]:
    driver = KafkaDriver(Url(url), SystemClock())
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


class Events(list[DriverEvent]):
    def __call__(self, event: DriverEvent) -> None:
        self.append(event)

    def of(self, kind: type[DriverEvent]) -> list[Any]:
        return [event for event in self if isinstance(event, kind)]


async def subscribed(
    driver: KafkaDriver, source: Queue | TopicSubscription, events: Events | None = None, prefetch: int = 100
) -> KafkaSubscription:
    await driver.declare(Topology(create=(source,)))
    return await driver.subscribe(source, prefetch=prefetch, notify=events if events is not None else Events())


def out(number: object, key: str | None = None, **more: Any) -> Outbound:
    message = Outbound(str(number).encode(), {"type": "t"}, {}, key, str(number))
    for field, value in more.items():
        setattr(message, field, value)
    return message


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, within: float = 20.0) -> None:
    deadline = time.monotonic() + within
    while True:
        answer = condition()
        if answer if isinstance(answer, bool) else await answer:
            return
        assert time.monotonic() < deadline, f"did not happen: {what}"
        await asyncio.sleep(0.02)


async def take(subscription: KafkaSubscription, count: int, within: float = 20.0) -> list[Any]:
    got: list[Any] = []
    deadline = time.monotonic() + within
    while len(got) < count:
        got += await subscription.receive(count - len(got), 1.0)
        assert time.monotonic() < deadline, f"{len(got)} of {count} came"
    return got

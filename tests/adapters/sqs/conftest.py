"""Servers that play SQS, names that one test alone uses, and programs without unibus."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from botocore.session import get_session

from tests.brokers import broker
from unibus.bus import Bus
from unibus.driver import (
    Delivery,
    DriverEvent,
    Outbound,
    Queue,
    Subscription,
    SystemClock,
    TopicSubscription,
    Topology,
    Url,
)
from unibus_sqs import connect
from unibus_sqs.driver import SqsDriver

REGION = "eu-west-1"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nobody: what plays SQS takes any."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")


@pytest.fixture(params=["moto", "elasticmq"])
def url(request: pytest.FixtureRequest) -> str:
    """Of each server in turn, for queues."""
    options = {"moto": "", "elasticmq": "&topics=off"}[request.param]
    return f"sqs://{REGION}?endpoint={broker(request.param).url}&wait=1&timeout=30{options}"


@pytest.fixture
def moto() -> str:
    """The URL of the one that has topics."""
    return f"sqs://{REGION}?endpoint={broker('moto').url}&wait=0&timeout=30"


@pytest.fixture
def elasticmq() -> str:
    """The URL of the one that remembers for five minutes what was sent in order."""
    return f"sqs://{REGION}?endpoint={broker('elasticmq').url}&wait=1&topics=off&timeout=30"


@pytest.fixture
def name() -> Callable[[str], str]:
    prefix = f"t{uuid.uuid4().hex[:8]}"
    return lambda word: f"{prefix}.{word}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqsDriver]:
    made = connect(Url(url), SystemClock())
    assert isinstance(made, SqsDriver)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


@contextmanager
def plain(url: str, service: str = "sqs") -> Iterator[Any]:
    """The client of a program without unibus: boto3's, without boto3's dress."""
    endpoint = str(Url(url).options["endpoint"])
    client = get_session().create_client(service, region_name=REGION, endpoint_url=endpoint)
    try:
        yield client
    finally:
        client.close()


@contextmanager
def counted(bus: Bus) -> Iterator[Counter[str]]:
    """The calls to AWS that an open bus makes meanwhile."""
    driver = bus.driver
    assert isinstance(driver, SqsDriver)
    calls: Counter[str] = Counter()

    def count(model: Any, **_: Any) -> None:
        calls[model.name] += 1

    clients = [client for client in (driver.sqs, driver.sns) if client is not None]
    for client in clients:
        client.meta.events.register("before-call", count, unique_id="counted")
    yield calls
    for client in clients:
        client.meta.events.unregister("before-call", unique_id="counted")


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


async def subscribed(
    driver: SqsDriver, source: Queue | TopicSubscription, *, prefetch: int = 100, events: Events | None = None
) -> Subscription:
    await driver.declare(Topology(create=(source,)))
    return await driver.subscribe(source, prefetch=prefetch, notify=events if events is not None else Events())


async def take(subscription: Subscription, count: int, seconds: float = 60) -> list[Delivery]:
    """Exactly so many deliveries."""
    got: list[Delivery] = []
    async with asyncio.timeout(seconds):
        while len(got) < count:
            got += await subscription.receive(count - len(got), 1.0)
    return got


def ids(deliveries: Sequence[Delivery]) -> list[str]:
    return [delivery.message_id for delivery in deliveries]


async def until(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.01)

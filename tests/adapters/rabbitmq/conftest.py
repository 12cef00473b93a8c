"""Servers, and names that one test alone uses."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from tests.brokers import Broker, broker
from unibus.driver import SystemClock, Url
from unibus_rabbitmq import RabbitDriver


@pytest.fixture(params=["rabbitmq", "rabbitmq-3"])
def server(request: pytest.FixtureRequest) -> Broker:
    """Each version in turn."""
    return broker(request.param)


@pytest.fixture
def newest() -> Broker:
    return broker("rabbitmq")


@pytest.fixture
def name() -> Callable[[str], str]:
    prefix = f"t{uuid.uuid4().hex[:8]}"
    return lambda word: f"{prefix}.{word}"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RabbitDriver]:
    driver = RabbitDriver(Url(url), SystemClock())
    await driver.open()
    try:
        yield driver
    finally:
        await driver.close()


@asynccontextmanager
async def plain(url: str) -> AsyncIterator[AbstractChannel]:
    """A channel of a program without unibus."""
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel()

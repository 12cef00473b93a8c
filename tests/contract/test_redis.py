"""The contract suite on Redis, in both versions that Debian has: streams, and topics over publish/subscribe."""

from __future__ import annotations

import asyncio

import pytest

from tests.brokers import Broker, broker
from unibus.bus import Bus
from unibus.driver import Driver
from unibus.testing import contract
from unibus.testing.faults import innermost
from unibus.testing.harness import Harness
from unibus_redis.driver import RedisDriver


class RedisHarness(Harness):
    """A server that is shared by all cases, in real time."""

    server = "redis"
    scheme = "redis"
    silence = 0.5
    load = 1000
    many = 30

    def __init__(self) -> None:
        super().__init__()
        self.broker: Broker = broker(self.server)
        self.url = f"{self.scheme}://{self.broker.host}:{self.broker.port}/0?lease=1.5"
        self.version = self.broker.version

    async def vanish(self, driver: Driver) -> None:
        assert isinstance(driver, RedisDriver)
        await driver.vanish()

    async def lose(self, bus: Bus) -> None:
        driver = innermost(bus.driver)
        assert isinstance(driver, RedisDriver)
        driver.expire()

    async def restart(self) -> None:
        if not self.broker.ours:
            pytest.skip("needs a server that it may restart")
        await asyncio.to_thread(self.broker.restart)


class Redis7Harness(RedisHarness):
    server = "redis-7"


class PubSubHarness(RedisHarness):
    scheme = "redis+pubsub"


class TestRedis8(contract.Suite):
    harness_type = RedisHarness


class TestRedis7(contract.Suite):
    harness_type = Redis7Harness


class TestPubSub(contract.Suite):
    harness_type = PubSubHarness

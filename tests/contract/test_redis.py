"""The contract suite on Redis streams."""

from __future__ import annotations

import os

from tests.contract.tried import Tried
from unibus.driver import Driver
from unibus.testing.harness import Harness
from unibus_redis.driver import RedisDriver


def server() -> str:
    """host:port/db of a server that runs."""
    url = os.environ.get("UNIBUS_TEST_REDIS_URL")
    if not url:
        from tests.brokers import broker

        url = str(broker("redis").url)
    return url.partition("://")[2]


class RedisHarness(Harness):
    many = 30

    async def start(self) -> None:
        self.url = f"redis://{server()}?lease=1.5"

    async def vanish(self, driver: Driver) -> None:
        assert isinstance(driver, RedisDriver)
        await driver.vanish()


class TestRedis(Tried):
    harness_type = RedisHarness


class PubSubHarness(RedisHarness):
    async def start(self) -> None:
        self.url = f"redis+pubsub://{server()}?lease=1.5"


class TestPubSub(Tried):
    harness_type = PubSubHarness

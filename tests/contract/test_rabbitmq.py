"""The contract suite on RabbitMQ, in both versions that Debian has."""

from __future__ import annotations

import asyncio

import pytest

from tests.brokers import Broker, broker
from unibus.bus import Bus
from unibus.driver import Driver
from unibus.testing import contract
from unibus.testing.faults import innermost
from unibus.testing.harness import Harness
from unibus_rabbitmq import RabbitDriver


class RabbitHarness(Harness):
    """A broker that is shared by all cases, in real time."""

    server = "rabbitmq"
    silence = 0.25
    load = 1000
    many = 20

    def __init__(self) -> None:
        super().__init__()
        self.broker: Broker = broker(self.server)
        self.url = self.broker.url
        self.version = self.broker.version

    async def vanish(self, driver: Driver) -> None:
        assert isinstance(driver, RabbitDriver)
        driver.vanish()

    async def lose(self, bus: Bus) -> None:
        driver = innermost(bus.driver)
        assert isinstance(driver, RabbitDriver)
        driver.cut_consuming()

    async def restart(self) -> None:
        if not self.broker.ours:
            pytest.skip("needs a server that it may restart")
        await asyncio.to_thread(self.broker.restart)


class Rabbit3Harness(RabbitHarness):
    server = "rabbitmq-3"


class TestRabbit4(contract.Suite):
    harness_type = RabbitHarness


class TestRabbit3(contract.Suite):
    harness_type = Rabbit3Harness

"""The contract suite on Kafka."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest

from tests.brokers import Broker, broker
from unibus.bus import Bus
from unibus.driver import Driver
from unibus.testing import contract
from unibus.testing.faults import innermost
from unibus.testing.harness import Harness
from unibus_kafka import KafkaDriver


class KafkaHarness(Harness):
    """A broker that is shared by all cases, in real time."""

    silence = 0.25
    patience = 60.0
    load = 500
    many = 10

    def __init__(self) -> None:
        super().__init__()
        self.broker: Broker = broker("kafka")
        self.url = f"{self.broker.url}?session=5&revoke=3&metadata_age=0.5&partitions=2"
        self.version = self.broker.version

    async def vanish(self, driver: Driver) -> None:
        assert isinstance(driver, KafkaDriver)
        await driver.vanish()

    async def lose(self, bus: Bus) -> None:
        driver = innermost(bus.driver)
        assert isinstance(driver, KafkaDriver)
        await driver.put_out()

    async def restart(self) -> None:
        if not self.broker.ours:
            pytest.skip("needs a server that it may restart")
        await asyncio.to_thread(self.broker.restart)


@pytest.fixture
def _litter() -> Iterator[None]:
    """The client leaves open what it was connecting when it was closed: to be found here, not in a later test."""
    yield
    gc.collect()


@pytest.mark.usefixtures("_litter")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
class TestKafka(contract.Suite):
    harness_type = KafkaHarness

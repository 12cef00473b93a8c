"""The contract suite on Kafka."""

from __future__ import annotations

import os

from tests.contract.tried import Tried
from unibus.driver import Driver
from unibus.testing.harness import Harness
from unibus_kafka.driver import KafkaDriver


def server() -> str:
    """host:port of a server that runs."""
    url = os.environ.get("UNIBUS_TEST_KAFKA_URL")
    if not url:
        from tests.brokers import broker

        url = str(broker("kafka").url)
    return url.partition("://")[2].strip("/")


class KafkaHarness(Harness):
    many = 5
    load = 500

    async def start(self) -> None:
        self.url = f"kafka://{server()}?session=6&revoke=3&metadata_age=0.5"

    async def vanish(self, driver: Driver) -> None:
        assert isinstance(driver, KafkaDriver)
        await driver.vanish()


class TestKafka(Tried):
    harness_type = KafkaHarness

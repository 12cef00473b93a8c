"""The contract suite on SQS and SNS as moto plays them, and on ElasticMQ's queues: it is stricter, and has no SNS.

On AWS itself if UNIBUS_TEST_SQS_URL names a region (`sqs://eu-west-1`) and AWS's chain finds credentials.
"""

from __future__ import annotations

import os

import pytest

from tests.brokers import Broker, broker
from unibus.bus import Bus
from unibus.driver import Driver
from unibus.testing import contract
from unibus.testing.faults import innermost
from unibus.testing.harness import Harness
from unibus_sqs.driver import SqsDriver

AWS = os.environ.get("UNIBUS_TEST_SQS_URL")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nobody: what plays SQS takes any."""
    if AWS is None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")


class SqsHarness(Harness):
    """What is killed comes again when its lease ends, which the server alone can tell: hence the patience."""

    server = "moto"
    options = "lease=5&wait=0&timeout=30"
    silence = 0.5
    load = 400
    many = 10
    patience = 90.0
    longest_wait = 16.0
    largest_body = 2 * 1024 * 1024

    def __init__(self) -> None:
        super().__init__()
        if AWS is not None:
            self.url = f"{AWS}{'&' if '?' in AWS else '?'}{self.options}"
        else:
            playing: Broker = broker(self.server)
            self.url = f"sqs://eu-west-1?endpoint={playing.url}&{self.options}"
            self.version = playing.version

    async def vanish(self, driver: Driver) -> None:
        assert isinstance(driver, SqsDriver)
        await driver.vanish()

    async def lose(self, bus: Bus) -> None:
        driver = innermost(bus.driver)
        assert isinstance(driver, SqsDriver)
        driver.expire()


class ElasticMQHarness(SqsHarness):
    server = "elasticmq"
    # Its limit is the one that AWS had until August 2025.
    options = "lease=5&wait=0&timeout=30&topics=off&max_body=262144"


LARGE = pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # aiohttp's, beyond 1 MiB


@LARGE
class TestMoto(contract.Suite):
    harness_type = SqsHarness


@LARGE
@pytest.mark.skipif(AWS is not None, reason="the other class runs on AWS")
class TestElasticMQ(contract.Suite):
    harness_type = ElasticMQHarness

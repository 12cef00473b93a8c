"""Every fault on Kafka: on a single node, and on three of which one is lost."""

from __future__ import annotations

import pytest

from tests.faults.kafka import KAFKA, KAFKA_CLUSTER
from tests.faults.run import Run
from tests.faults.scenarios import broker
from tests.faults.scenarios.everywhere import EVERYWHERE, Scenario, named


@pytest.mark.parametrize("scenario", EVERYWHERE, ids=named)
@pytest.mark.parametrize("server", [KAFKA], ids=lambda server: server.name)
async def test_fault(scenario: Scenario, run: Run) -> None:
    await scenario(run)


@pytest.mark.parametrize(
    "scenario", [broker.killed_mid_publish, broker.killed_mid_consume, broker.restarted], ids=named
)
@pytest.mark.parametrize("server", [KAFKA_CLUSTER], ids=lambda server: server.name)
async def test_fault_of_one_node(scenario: Scenario, run: Run) -> None:
    await scenario(run)

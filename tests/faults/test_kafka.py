"""Every fault on Kafka, a single node; and on a cluster of three what only nodes can suffer."""

from __future__ import annotations

import pytest

from tests.faults.kafka import KAFKA, KAFKA_CLUSTER
from tests.faults.run import Run
from tests.faults.scenarios import nodes
from tests.faults.scenarios.everywhere import EVERYWHERE, Scenario, named

NODES: list[Scenario] = [
    nodes.leaders_moved,
    nodes.killed_mid_publish,
    nodes.killed_mid_consume,
    nodes.coordinator_killed,
]


@pytest.mark.parametrize("scenario", EVERYWHERE, ids=named)
@pytest.mark.parametrize("server", [KAFKA], ids=lambda server: server.name)
async def test_fault(scenario: Scenario, run: Run) -> None:
    await scenario(run)


@pytest.mark.parametrize("scenario", NODES, ids=named)
@pytest.mark.parametrize("server", [KAFKA_CLUSTER], ids=lambda server: server.name)
async def test_fault_of_a_node(scenario: Scenario, run: Run) -> None:
    await scenario(run)

"""Faults on Kafka, a single node: those that the adapter has been proved to stand so far.

The others of `EVERYWHERE`, and those on a cluster of three nodes, are to follow.
"""

from __future__ import annotations

import pytest

from tests.faults.kafka import KAFKA
from tests.faults.run import Run
from tests.faults.scenarios import broker, consumers, network
from tests.faults.scenarios.everywhere import Scenario, named


@pytest.mark.parametrize("scenario", [consumers.scaled, network.dropped_replies, broker.killed_mid_publish], ids=named)
@pytest.mark.parametrize("server", [KAFKA], ids=lambda server: server.name)
async def test_fault(scenario: Scenario, run: Run) -> None:
    await scenario(run)

"""The faults that SQS can suffer here: of consumers, of the way to it, and of a queue. What plays it is never killed,
since it forgets all. A consumer is killed where `test_effects` looks at what comes of it."""

from __future__ import annotations

import pytest

from tests.faults.run import Run
from tests.faults.scenarios import consumers, network, topology
from tests.faults.scenarios.everywhere import Scenario, named
from tests.faults.sqs import MOTO

SCENARIOS: list[Scenario] = [
    consumers.scaled,
    consumers.slow,
    consumers.frozen,
    network.black_hole,
    network.dropped_replies,
    topology.deleted_live,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=named)
@pytest.mark.parametrize("server", [MOTO], ids=lambda server: server.name)
async def test_fault(scenario: Scenario, run: Run) -> None:
    await scenario(run)

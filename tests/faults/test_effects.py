"""Effects in a database, once and only once: on every broker that delivers at least once."""

from __future__ import annotations

import pytest

from tests.faults.kafka import KAFKA
from tests.faults.rabbitmq import RABBITMQ_4
from tests.faults.redis import REDIS_8
from tests.faults.run import Run
from tests.faults.scenarios import effects
from tests.faults.scenarios.everywhere import Scenario, named
from tests.faults.server import Server
from tests.faults.sqs import MOTO

CASES: list[tuple[Server, Scenario]] = [
    (RABBITMQ_4, effects.killed_with_inbox),
    (REDIS_8, effects.killed_with_inbox),
    (KAFKA, effects.killed_with_inbox),
    (MOTO, effects.killed_with_inbox),
    # On one of them: each has a scenario of claims among its faults. This one shows what an inbox is for.
    (RABBITMQ_4, effects.killed_with_claims),
]


@pytest.mark.parametrize(("server", "scenario"), CASES, ids=[f"{server.name}-{named(run)}" for server, run in CASES])
async def test_fault(scenario: Scenario, run: Run) -> None:
    await scenario(run)

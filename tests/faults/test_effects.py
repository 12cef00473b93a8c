"""Effects in a database, once and only once: on every broker that delivers at least once."""

from __future__ import annotations

import pytest

from tests.faults.kafka import KAFKA
from tests.faults.rabbitmq import RABBITMQ_4
from tests.faults.redis import REDIS_8
from tests.faults.run import Run
from tests.faults.scenarios import effects
from tests.faults.scenarios.everywhere import Scenario, named


@pytest.mark.parametrize("scenario", [effects.killed_with_inbox, effects.killed_with_claims], ids=named)
@pytest.mark.parametrize("server", [RABBITMQ_4, REDIS_8, KAFKA], ids=lambda server: server.name)
async def test_fault(scenario: Scenario, run: Run) -> None:
    await scenario(run)

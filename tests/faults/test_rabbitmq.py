"""Every fault on RabbitMQ, in both versions that Debian has."""

from __future__ import annotations

import pytest

from tests.faults.rabbitmq import RABBITMQ_3, RABBITMQ_4
from tests.faults.run import Run
from tests.faults.scenarios.everywhere import EVERYWHERE, Scenario, named


@pytest.mark.parametrize("scenario", EVERYWHERE, ids=named)
@pytest.mark.parametrize("server", [RABBITMQ_4, RABBITMQ_3], ids=lambda server: server.name)
async def test_fault(scenario: Scenario, run: Run) -> None:
    await scenario(run)

"""Every fault on Redis, in both versions that Debian has, with its append-only file."""

from __future__ import annotations

import pytest

from tests.faults.redis import REDIS_7, REDIS_8
from tests.faults.run import Run
from tests.faults.scenarios.everywhere import EVERYWHERE, Scenario, named


@pytest.mark.parametrize("scenario", EVERYWHERE, ids=named)
@pytest.mark.parametrize("server", [REDIS_8, REDIS_7], ids=lambda server: server.name)
async def test_fault(scenario: Scenario, run: Run) -> None:
    await scenario(run)

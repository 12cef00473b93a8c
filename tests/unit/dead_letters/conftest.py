"""Every test runs on both models of the memory broker."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.harnesses import MemoryHarness, MemoryLogHarness, MemoryQueueHarness


@pytest.fixture(params=[MemoryQueueHarness, MemoryLogHarness], ids=["queue", "log"])
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[MemoryHarness]:
    made: MemoryHarness = request.param()
    await made.begin()
    yield made
    await made.end()

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.unit.memory.tools import MODELS, Events, World
from unibus.testing.clock import MovableClock


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
async def world(clock: MovableClock) -> AsyncIterator[World]:
    world = World(clock)
    yield world
    await world.close()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture(params=MODELS, ids=["queue", "log"])
def url(request: pytest.FixtureRequest) -> str:
    """Each model in turn; the log has one partition, so that order and offsets are plain."""
    return str(request.param)

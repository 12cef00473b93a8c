"""Fixtures that need pytest-asyncio; registered by the plugin where it is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict

import pytest
import pytest_asyncio

from unibus.testing.contract.needs import needs_of
from unibus.testing.harness import Harness


@pytest_asyncio.fixture
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """A started harness of the class's `harness_type`; skips what the broker cannot do, by name."""
    made: Harness = request.cls.harness_type()
    await made.begin()
    try:
        properties = {"harness": type(made).__name__, "url": made.url, "capabilities": asdict(made.capabilities)}
        request.node.user_properties.append(("unibus", properties))
        lacking = [need.name for need in needs_of(request.function) if not need.met(made)]
        if lacking:
            pytest.skip(f"needs {', '.join(lacking)}")
        yield made
    finally:
        await made.end()

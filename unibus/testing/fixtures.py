"""Fixtures that need pytest-asyncio; registered by the plugin where it is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from unibus.testing.harness import Harness


@pytest_asyncio.fixture
async def harness(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """A started harness of the class's `harness_type`; skips what the broker cannot do, by name."""
    from unibus.driver import Url
    from unibus.testing.contract.needs import needs_of

    made: Harness = request.cls.harness_type()
    await made.begin()
    try:
        facts = {
            "harness": type(made).__name__,
            "scheme": Url(made.url).scheme,
            "version": made.version,
            "capabilities": asdict(made.capabilities),
        }
        request.node.user_properties.append(("unibus", facts))
        lacking = [need.name for need in needs_of(request.function) if not need.met(made)]
        if lacking:
            pytest.skip(f"needs {', '.join(lacking)}")
        yield made
    finally:
        await made.end()

"""What a refusal says, and the place in the code that it must name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from unibus import Bus, ConfigurationError


def here(function: Callable[..., Any]) -> str:
    """The file and line that an error about the function must name."""
    return f"{inspect.getsourcefile(function)}:{function.__code__.co_firstlineno}"


async def refused(bus: Bus) -> str:
    """Opening the bus is refused; returns what it says."""
    with pytest.raises(ConfigurationError) as caught:
        async with bus:
            pass
    return str(caught.value)

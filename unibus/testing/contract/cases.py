"""What every theme of the contract suite begins with."""

from __future__ import annotations

from typing import ClassVar

import pytest

from unibus.testing.harness import Harness


class Cases:
    """A class of cases. Each gets `harness`, fresh, and uses names of `harness.name` alone."""

    pytestmark: ClassVar = [pytest.mark.asyncio]
    harness_type: ClassVar[type[Harness]]

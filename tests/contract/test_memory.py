"""The contract suite on the memory broker, in both models and in weaker forms."""

from __future__ import annotations

from typing import ClassVar

from tests.contract.harnesses import MemoryLogHarness, MemoryQueueHarness
from unibus.testing import contract


class TestMemoryQueue(contract.Suite):
    harness_type = MemoryQueueHarness


class TestMemoryLog(contract.Suite):
    harness_type = MemoryLogHarness

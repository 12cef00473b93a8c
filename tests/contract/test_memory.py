"""The contract suite on the memory broker, in both models and in weaker forms."""

from __future__ import annotations

from tests.contract import harnesses
from unibus.testing import contract


class TestMemoryQueue(contract.Suite):
    harness_type = harnesses.MemoryQueueHarness


class TestMemoryLog(contract.Suite):
    harness_type = harnesses.MemoryLogHarness


class TestLossyQueue(contract.Suite):
    harness_type = harnesses.LossyQueueHarness


class TestLossyLog(contract.Suite):
    harness_type = harnesses.LossyLogHarness


class TestBareQueue(contract.Suite):
    harness_type = harnesses.BareQueueHarness


class TestSmallQueue(contract.Suite):
    harness_type = harnesses.SmallQueueHarness


class TestOnePartition(contract.Suite):
    harness_type = harnesses.OnePartitionHarness

"""The contract suite: what every driver proves before it is called ready.

    from unibus.testing import contract

    class TestRedis(contract.Suite):
        harness_type = RedisHarness

Cases are steered by `capabilities` alone. Each theme is a class of its own, for suites in parts.
"""

from unibus.testing.contract.roundtrip import Roundtrip

__all__ = ["Roundtrip", "Suite"]


class Suite(Roundtrip):
    """Every case."""

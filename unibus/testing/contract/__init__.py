"""The contract suite: what every driver proves before it is called ready.

    from unibus.testing import contract

    class TestRedis(contract.Suite):
        harness_type = RedisHarness

Cases are steered by `capabilities` alone. Each theme is a class of its own, for suites in parts.
"""

from unibus.testing.contract.cancellation import Cancellation
from unibus.testing.contract.delays import Delays
from unibus.testing.contract.failures import Failures, GroupFailures
from unibus.testing.contract.idempotence import Idempotence
from unibus.testing.contract.lifecycle import Lifecycle
from unibus.testing.contract.ordering import GroupOrdering, Ordering
from unibus.testing.contract.roundtrip import Roundtrip
from unibus.testing.contract.topics import Topics

__all__ = ["Cancellation", "Delays", "Failures", "GroupFailures", "GroupOrdering", "Idempotence", "Lifecycle", "Ordering", "Roundtrip", "Suite", "Topics"]


class Suite(Roundtrip, Lifecycle, Topics, Delays, Ordering, GroupOrdering, Failures, GroupFailures, Idempotence, Cancellation):
    """Every case."""

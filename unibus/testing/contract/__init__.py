"""The contract suite: what every driver proves before it is called ready.

    from unibus.testing import contract

    class TestRedis(contract.Suite):
        harness_type = RedisHarness

Cases are steered by `capabilities` alone. Each theme is a class of its own, for suites in parts.
"""

from unibus.testing.contract.batches import Batches
from unibus.testing.contract.cancellation import Cancellation
from unibus.testing.contract.crashing import Crashing
from unibus.testing.contract.dead_lettering import DeadLettering
from unibus.testing.contract.delays import Delays
from unibus.testing.contract.failures import Failures
from unibus.testing.contract.group_failures import GroupFailures
from unibus.testing.contract.handling import Handling
from unibus.testing.contract.idempotence import Idempotence
from unibus.testing.contract.lifecycle import Lifecycle
from unibus.testing.contract.losing import Losing
from unibus.testing.contract.negotiation import Negotiation
from unibus.testing.contract.ordered_sending import OrderedSending
from unibus.testing.contract.ordering import GroupOrdering, Ordering
from unibus.testing.contract.pulling import Pulling
from unibus.testing.contract.replaying import Replaying
from unibus.testing.contract.roundtrip import Roundtrip
from unibus.testing.contract.seam import Seam
from unibus.testing.contract.topics import Topics

__all__ = [
    "Batches", "Cancellation", "Crashing", "DeadLettering", "Delays", "Failures", "GroupFailures", "GroupOrdering",
    "Handling", "Idempotence", "Lifecycle", "Losing", "Negotiation", "OrderedSending", "Ordering", "Pulling",
    "Replaying", "Roundtrip", "Seam", "Suite", "Topics",
]  # fmt: skip


class Suite(
    Negotiation, Seam, Roundtrip, Lifecycle, Handling, Topics, Delays, Ordering, OrderedSending, GroupOrdering,
    Failures, DeadLettering, Replaying, GroupFailures, Idempotence, Batches, Pulling, Losing, Crashing, Cancellation,
):  # fmt: skip
    """Every case."""

"""What a case needs of a broker. Missing, the case is skipped and the capability named; that the
program is then refused is a case of its own (`negotiation`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from unibus.driver import Capabilities
from unibus.testing.harness import Harness

C = TypeVar("C", bound=Callable[..., Any])

_ATTRIBUTE = "__unibus_needs__"


@dataclass(frozen=True)
class Need:
    """A capability, or something that the harness can provoke."""

    name: str
    met: Callable[[Harness], bool]


def _capability(name: str, there: Callable[[Capabilities], bool]) -> Need:
    return Need(name, lambda harness: there(harness.capabilities))


RELIABLE_QUEUES = _capability("queue_guarantee=at_least_once", lambda c: c.queue_guarantee == "at_least_once")
RELIABLE_TOPICS = _capability("topic_guarantee=at_least_once", lambda c: c.topic_guarantee == "at_least_once")
ORDERED_QUEUES = _capability("queue_ordering", lambda c: c.queue_ordering != "none")
ORDERED_TOPICS = _capability("topic_ordering", lambda c: c.topic_ordering != "none")
GROUPS = _capability("groups", lambda c: c.groups != "none")
EPHEMERAL = _capability("ephemeral", lambda c: c.ephemeral != "none")
SUBSCRIPTIONS = _capability("groups or ephemeral", lambda c: c.groups != "none" or c.ephemeral != "none")
PATTERNS = _capability("patterns", lambda c: c.patterns != "none")
EARLIEST = _capability("start_earliest", lambda c: c.start_earliest != "none")
DELAY = _capability("delay", lambda c: c.delay.support != "none" and (c.delay.max is None or c.delay.max >= 5))
LONG_DELAY = _capability("delay of an hour", lambda c: c.delay.support != "none" and (c.delay.max or 3600) >= 3600)
DELAY_LIMIT = _capability("delay with a limit", lambda c: c.delay.support != "none" and c.delay.max is not None)
NO_DELAY = Need("a broker without delays", lambda harness: harness.capabilities.delay.support == "none")
NACK_DELAY = _capability("nack_delay", lambda c: c.nack_delay != "none")
DELIVERY_COUNT = _capability("delivery_count", lambda c: c.delivery_count != "none")
LEASE = _capability("lease", lambda c: c.lease is not None)
HOLD = _capability("hold", lambda c: c.hold is not None)
BROWSE = _capability("browse", lambda c: c.browse != "none")
MAX_BODY = Need(
    "max_body (one that Harness.largest_body lets try)",
    lambda harness: harness.capabilities.max_body is not None and harness.capabilities.max_body <= harness.largest_body,
)
LOSE = Need("Harness.lose", lambda harness: harness.provides("lose"))
RESTART = Need("Harness.restart", lambda harness: harness.provides("restart"))


def needs(*wanted: Need) -> Callable[[C], C]:
    """Mark a case, or every case of a class."""

    def mark(case: C) -> C:
        if isinstance(case, type):
            for name, value in vars(case).items():
                if name.startswith("test_"):
                    mark(value)
        else:
            setattr(case, _ATTRIBUTE, (*needs_of(case), *wanted))
        return case

    return mark


def needs_of(case: Callable[..., Any]) -> tuple[Need, ...]:
    found: tuple[Need, ...] = getattr(case, _ATTRIBUTE, ())
    return found

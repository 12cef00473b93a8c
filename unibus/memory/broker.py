"""What the driver asks of a broker, whatever its model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from unibus.driver import Address, Delivery, Depth, Outbound, Source, Topic
from unibus.memory.subscription import MemorySubscription, Notify


class Broker(Protocol):
    """The state behind one or more drivers. Nothing waits: every call happens at once."""

    def declare(self, address: Source | Topic) -> None:
        """Create, or verify what is there."""

    def verify(self, address: Source | Topic) -> None:
        """Raise unless it is there and as described."""

    def send(self, address: Address, messages: Sequence[Outbound]) -> None: ...

    def subscribe(self, source: Source, prefetch: int, notify: Notify) -> MemorySubscription: ...

    def depth(self, source: Source) -> Depth: ...

    def browse(self, source: Source, after: str | None, limit: int) -> tuple[list[Delivery], str | None]: ...

    def close(self) -> None:
        """Stop all timers; nobody uses it any more."""


def physical_name(address: Source | Topic) -> str:
    """The broker's own name of a queue, a group or a topic."""
    physical = getattr(address, "physical", None)
    return physical if isinstance(physical, str) else address.name

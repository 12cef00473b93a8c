"""What a consumer needs to run, worked out once at start from the handler, its options and the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from unibus.codec import Decode
from unibus.driver import Capabilities, Clock, Driver, Guarantee, Queue, Source
from unibus.middleware.retry import RetryOption
from unibus.options import BatchHandler, Handler
from unibus.sender import Sender
from unibus.signature import Signature
from unibus.stats import ConsumerStats


@dataclass(frozen=True, slots=True)
class Plan:
    """name: the queue, the group, or the patterns of an ephemeral subscriber. dead_letters: None drops.

    prefetch: deliveries held at once, buffered and unsettled. timeout: the handler's, seconds, or None.
    turn_every: seconds from one message to the next at the rate of its limit, 0.0 without one.
    """

    name: str
    source: Source
    function: Callable[..., Any]
    where: str
    signature: Signature
    concurrency: int
    prefetch: int
    max_batch: int
    max_wait: float
    guarantee: Guarantee
    dead_letters: Queue | None
    retry: RetryOption
    timeout: float | None
    decode: Decode
    turn_every: float = 0.0

    @property
    def ordered(self) -> bool:
        return self.source.ordering == "key"

    @property
    def resendable(self) -> bool:
        """Whether a message can be sent to this consumer alone: not to an ephemeral one."""
        return isinstance(self.source, Queue) or self.source.group is not None


@dataclass(frozen=True, slots=True)
class Folded:
    """The handler with its middlewares around it, in one of its two forms."""

    single: Handler | None
    batch: BatchHandler | None
    stats: ConsumerStats


class Surface(Protocol):
    """What a consumer sees of its bus."""

    @property
    def driver(self) -> Driver: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def capabilities(self) -> Capabilities: ...
    def sender_for(self, address: Source) -> Sender: ...

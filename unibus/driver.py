"""The seam: what an adapter implements, and all that it may import from unibus beside the errors.

A driver moves bytes in batches between one broker and the core. It never retries a handler,
decodes a body, starts a task or a timer per message, or logs above debug. It does reconnect,
declare again and subscribe again, with backoff, and it notices a consumer that is silently gone.
Foreign errors become ours through one table per adapter, with `__cause__` kept.

An adapter is found by its URL's scheme: an entry point of the group `unibus.adapters` names a
function `(url: Url, clock: Clock) -> Driver` that opens nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from unibus.address import Address, Ordering, Queue, Source, Start, Topic, TopicSubscription
from unibus.clock import Clock, SystemClock, Timer
from unibus.inbox import Inbox
from unibus.names import matches
from unibus.url import Url

__all__ = [
    "Address", "Blocked", "Browser", "Capabilities", "Clock", "Confirmed", "Connect", "Delay", "Delivery", "Depth",
    "Disconnected", "Driver", "DriverEvent", "Forwarding", "Gap", "Guarantee", "Inbox", "LeaseExtender", "Limits",
    "Lost", "Narrowing", "Ordering", "Outbound", "Outcome", "Queue", "Reconnected", "Recreated", "Revoking", "Source",
    "Start", "Subscription", "Support", "SystemClock", "Timer", "Topic", "TopicSubscription", "Topology",
    "Unblocked", "Url", "matches",
]  # fmt: skip

Support: TypeAlias = Literal["native", "emulated", "none"]
"""native: the broker does it. emulated: the driver does it on top, as promised. none: refused at start-up."""

Guarantee: TypeAlias = Literal["at_least_once", "at_most_once"]

Confirmed: TypeAlias = Literal["memory", "disk", "replicas"]
"""Where a message is kept once it is confirmed. memory: gone with the server's process. disk: there again when a
killed server comes back. replicas: there although a server is lost for good."""


class Outcome(enum.Enum):
    """How a delivery is settled."""

    ACK = "ack"
    """Done."""
    NACK = "nack"
    """Given back: available again at once or, where `nack_delay`, later. Never a retry policy."""
    REJECT = "reject"
    """Done without a record of ours, so that the broker's own policy may act."""


class Outbound:
    """One message on its way to the broker. `attributes` are ours, `headers` the user's.

    attributes: shared by messages that are alike and sent in the same moment, so they are never changed; a driver that
    writes them in a form of its own may keep that by their identity, for as long as one call lasts. body: None is a
    tombstone. delay: seconds from now, 0 is none. topic: the topic that it was first published to; it travels with
    re-sends to a group and with dead letters. message_id: the logical id, the same on every re-send.
    """

    __slots__ = ("attributes", "body", "delay", "headers", "key", "message_id", "priority", "topic")

    def __init__(
        self,
        body: bytes | None,
        attributes: Mapping[str, str],
        headers: Mapping[str, str],
        key: str | None,
        message_id: str,
        delay: float = 0.0,
        priority: int | None = None,
        topic: str | None = None,
    ) -> None:
        self.body = body
        self.attributes = attributes
        self.headers = headers
        self.key = key
        self.message_id = message_id
        self.delay = delay
        self.priority = priority
        self.topic = topic

    def __repr__(self) -> str:
        size = "tombstone" if self.body is None else f"{len(self.body)} bytes"
        return f"Outbound({self.message_id}, {size}, topic={self.topic!r}, delay={self.delay})"


class Delivery:
    """One message that the broker handed to us, until it is settled. Compared by identity.

    address: the topic where it was published, else the queue. sent_at: seconds since 1970, or None.
    deliveries: the broker's count of deliveries, this one included, or None where it has none.
    token: the driver's own, to settle by. native: the client library's object, for the user.
    """

    __slots__ = (
        "address", "attributes", "body", "deliveries", "headers", "key", "message_id", "native",
        "redelivered", "sent_at", "token",
    )  # fmt: skip

    def __init__(
        self,
        body: bytes | None,
        attributes: Mapping[str, str],
        headers: Mapping[str, str],
        key: str | None,
        message_id: str,
        address: str,
        sent_at: float | None,
        deliveries: int | None,
        redelivered: bool,
        token: Any,
        native: Any = None,
    ) -> None:
        self.body = body
        self.attributes = attributes
        self.headers = headers
        self.key = key
        self.message_id = message_id
        self.address = address
        self.sent_at = sent_at
        self.deliveries = deliveries
        self.redelivered = redelivered
        self.token = token
        self.native = native

    def __repr__(self) -> str:
        return f"Delivery({self.message_id}, from {self.address!r}, deliveries={self.deliveries})"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one kind of call takes. The core never passes more.

    messages: in one call. bytes: bodies of one call together, None is no limit. calls: in flight
    at once. min_messages: a further call starts beside one in flight only when so many wait; from 2 on, what waits
    is shared between the calls, so many each at least.
    """

    messages: int = 100
    bytes: int | None = None
    calls: int = 1
    min_messages: int = 1


@dataclass(frozen=True, slots=True)
class Delay:
    """How messages are delayed. max: seconds, None is no limit. precision: how late one may be, seconds."""

    support: Support = "none"
    max: float | None = None
    precision: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a broker can do, as data: the scheme's best case before `open`, exact after.

    confirmed: where a message is kept once `send` has returned, as far as the driver can find out.
    lease: seconds for which a delivery is ours unless extended; None where a delivery is ours as
        long as the connection lives. A driver with leases has subscriptions that are LeaseExtenders.
    hold: seconds for which a delivery may be held before it is begun, and again be handled, and again be
        parked: a third of the time after which the broker takes it away. None is no limit. What could not
        be begun within it is given back.
    delivery_count: whether `Delivery.deliveries` is there.
    ordered_delivery_count: the same on addresses that are ordered by key. There it must leave out what was
        prefetched behind another and not begun, or be bounded by `Narrowing` without harm to the order.
    nack_delay: whether a NACK may carry a delay.
    patterns: native, the broker routes by a group's patterns exactly; emulated, more may come, and the core
        sorts it out.
    delay: a delayed message takes its place, in the order of its key too, when it is due.
    max_body: bytes of one body; with `body_limit_counts_metadata` attributes and headers count too. What does
        not fit in the broker's own encoding, `send` refuses by MessageTooLarge.
    start_earliest: whether a new group can begin with what was published before it.
    positional: settlements are a position in a log, which moves on over what is done. What is left unsettled holds it
        up: after a close or a crash all that comes after it is delivered again, though it was settled. Who passes over
        a message and goes on writes it to the end anew, and acks it.
    notes: what else somebody has to know who runs on this broker as it is set up, a sentence each.
    """

    queue_guarantee: Guarantee = "at_least_once"
    topic_guarantee: Guarantee = "at_least_once"
    confirmed: Confirmed = "disk"
    queue_ordering: Support = "none"
    topic_ordering: Support = "none"
    groups: Support = "none"
    ephemeral: Support = "none"
    patterns: Support = "none"
    start_earliest: Support = "none"
    delay: Delay = field(default_factory=Delay)
    nack_delay: Support = "none"
    delivery_count: Support = "none"
    ordered_delivery_count: Support = "none"
    lease: float | None = None
    hold: float | None = None
    priority: Support = "none"
    browse: Support = "none"
    positional: bool = False
    native_dead_letter: Support = "none"
    max_body: int | None = None
    body_limit_counts_metadata: bool = False
    send: Limits = field(default_factory=Limits)
    receive: Limits = field(default_factory=Limits)
    settle: Limits = field(default_factory=Limits)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Topology:
    """What must exist. `create` is created or verified, `verify` must exist already (DestinationNotFound)."""

    create: tuple[Source | Topic, ...] = ()
    verify: tuple[Source | Topic, ...] = ()


@dataclass(frozen=True, slots=True)
class Depth:
    """How full a source is. None: the broker does not tell. oldest_age: seconds.

    ready: to be had now; on a log, what the group has not settled yet, whoever holds it.
    """

    ready: int
    in_flight: int | None = None
    delayed: int | None = None
    oldest_age: float | None = None


@dataclass(frozen=True, slots=True)
class Revoking:
    """These deliveries may be taken away at `deadline` (monotonic seconds): settle them before it.

    What is then taken is told by `Lost`; the rest stays ours.
    """

    deliveries: Sequence[Delivery]
    deadline: float


@dataclass(frozen=True, slots=True)
class Lost:
    """These deliveries are no longer ours: the core cancels their handlers and settles nothing."""

    deliveries: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class Blocked:
    """The broker takes no messages for now."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unblocked:
    """The broker takes messages again."""


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone; the driver is reconnecting."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reconnected:
    """The connection is back, and what was subscribed is subscribed again."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages may have been missed; `count` where it is known."""

    count: int | None = None


@dataclass(frozen=True, slots=True)
class Recreated:
    """The queue, stream or group was gone and was made anew: its backlog may be lost."""


DriverEvent: TypeAlias = Revoking | Lost | Blocked | Unblocked | Disconnected | Reconnected | Gap | Recreated


class Subscription(Protocol):
    """A live source of deliveries. All methods may be called concurrently."""

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Delivery]:
        """What is there, at most `max_messages`, as soon as there is one; empty after `max_wait` seconds.

        Never waits to fill a batch. Cancelling it loses nothing: what it would have returned
        stays ours and comes from the next call. One call at a time.
        """

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        """Settle deliveries of this subscription, in any order. Idempotent.

        Raises SettlementLost if some tokens were stale (the others are settled), ConnectionLost
        if the connection is away (they will be delivered again).
        """

    async def close(self) -> None:
        """Stop. What is unsettled is given back by the broker's own rules. Idempotent."""


@runtime_checkable
class LeaseExtender(Protocol):
    """Implemented by the subscriptions of drivers whose capabilities have a lease."""

    async def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Hold the deliveries for `seconds` from now, or for as little more as the broker can count in.

        Those that are lost are told by `Lost`.
        """


@runtime_checkable
class Narrowing(Protocol):
    """Implemented by the subscriptions of drivers to which the broker pushes: what it has pushed counts as
    delivered to us, though nobody has received it yet."""

    async def hold_at_most(self, deliveries: int) -> None:
        """From now on, or once what is held allows it, let the broker push no more than so many unsettled ones.

        What is here already is still received. Until it is called the bound is that of `subscribe`, or, on
        a source that is ordered by key and counted, one. A source that would lose its order by it gives back all
        that it holds instead, in order, as soon as nobody has anything in hand, and keeps its bound.
        """


@runtime_checkable
class Browser(Protocol):
    """Implemented by drivers that can look at a source without touching it."""

    async def browse(self, source: Source, after: str | None, limit: int) -> tuple[Sequence[Delivery], str | None]:
        """Up to `limit` messages after the cursor, and the cursor for the next call (None at the end)."""


@runtime_checkable
class Forwarding(Protocol):
    """Implemented by drivers whose delayed messages are moved by clients: consumers do it for what they consume."""

    async def forward(self) -> None:
        """Move what is due, for all addresses of the broker, until cancelled. Open and nothing else is needed.

        Several may run at once, beside the consumers that do the same. Survives a broker that is away.
        """


class Driver(Protocol):
    """One broker. Made by the adapter's connect function, opened and closed once."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def open(self) -> None:
        """Connect. Raises AccessDenied, or ConnectionLost if nothing answers."""

    async def declare(self, topology: Topology) -> None:
        """Create or verify, idempotent. Raises TopologyMismatch, DestinationNotFound or AccessDenied."""

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        """Return once the broker has confirmed every message, else raise BatchError naming those it did not.

        The errors inside are Rejected, NotSent, OutcomeUnknown, MessageTooLarge or DestinationNotFound; all
        other messages of the batch are stored. Messages of one call are stored in their order. A Topic
        address may mix topics: each Outbound names its own, and all are alike in `ordering` and `physical`.
        Publishing to a topic without subscribers succeeds. While the broker is away a send waits for it as
        long as for an answer, then it is NotSent. Never retried by the driver where that could duplicate in
        silence.
        """

    async def subscribe(self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]) -> Subscription:
        """Return once live: what is published from now on is received.

        `notify` is sync, called on the loop, never blocks and never raises. The driver hands out
        at most `prefetch` unsettled deliveries.
        """

    async def depth(self, source: Source) -> Depth:
        """Raises DestinationNotFound."""

    async def close(self) -> None:
        """Idempotent."""


Connect: TypeAlias = Callable[[Url, Clock], Driver]

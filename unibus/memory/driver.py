"""The driver: one connection to a memory broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unibus.driver import (
    Address,
    Capabilities,
    Clock,
    Delivery,
    Depth,
    DriverEvent,
    Outbound,
    Source,
    Topology,
    Url,
)
from unibus.errors import ConfigurationError, ConnectionLost, NotOpen
from unibus.memory import registry
from unibus.memory.broker import Broker
from unibus.memory.options import Options, capabilities
from unibus.memory.subscription import MemorySubscription, again


class MemoryDriver:
    """Everything happens in this process and within one event loop.

    `memory://` is a broker of this driver alone; `memory://name` is shared by the drivers of that
    name and lives as long as one of them is open. See `Options` for what the URL may say.

    An Outbound belongs to the broker once sent, and the attributes and headers of a Delivery are
    those of the message itself: neither is changed any more.
    """

    def __init__(self, url: Url, clock: Clock) -> None:
        if url.port is not None or url.path.strip("/") or url.username is not None:
            raise ConfigurationError(f"{url}: a memory broker has a name at most; use memory://name?option=value")
        self.options = url.parse_options(Options)
        self._name = url.host
        self._clock = clock
        self._capabilities = capabilities(self.options)
        self._broker: Broker | None = None
        self._away: Exception = NotOpen("the memory driver is not open; call open() first")
        self._subscriptions: list[MemorySubscription] = []

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def open(self) -> None:
        if self._broker is None:
            self._broker = registry.join(self._name, self.options, self._clock)

    async def declare(self, topology: Topology) -> None:
        broker = self._live()
        for address in topology.verify:
            broker.verify(address)
        for address in topology.create:
            broker.declare(address)

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        self._live().send(address, messages)

    async def subscribe(
        self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]
    ) -> MemorySubscription:
        subscription = self._live().subscribe(source, prefetch, notify)
        self._subscriptions = [live for live in self._subscriptions if not live.ended]
        self._subscriptions.append(subscription)
        return subscription

    async def depth(self, source: Source) -> Depth:
        return self._live().depth(source)

    async def browse(self, source: Source, after: str | None, limit: int) -> tuple[Sequence[Delivery], str | None]:
        """Implements Browser: what is ready, in the order in which it would be handed out."""
        return self._live().browse(source, after, limit)

    async def close(self) -> None:
        self._leave(NotOpen("the memory driver is closed"))

    def vanish(self) -> None:
        """For tests: what a killed process looks like to the broker.

        At once, all that its subscriptions held returns to the broker, its ephemeral queues are
        gone, and every later call on the driver or its subscriptions raises ConnectionLost.
        Nothing is notified any more. To see what comes of it, keep another driver of the same name
        open: the last one takes the broker along.
        """
        self._leave(ConnectionLost("the process behind this memory driver was killed by its test"))

    def _leave(self, reason: Exception) -> None:
        if self._broker is None:
            return
        for subscription in self._subscriptions:
            subscription.end(reason)
        self._subscriptions.clear()
        broker, self._broker, self._away = self._broker, None, reason
        registry.leave(self._name, broker)

    def _live(self) -> Broker:
        if self._broker is None:
            raise again(self._away)
        return self._broker

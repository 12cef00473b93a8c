"""Faults at the seam: a driver around any driver, so that the same faults happen on every broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from unibus.driver import (
    Address,
    Capabilities,
    Clock,
    Connect,
    Delivery,
    Depth,
    Driver,
    DriverEvent,
    LeaseExtender,
    Lost,
    Narrowing,
    Outbound,
    Outcome,
    Source,
    Subscription,
    Topology,
    Url,
)  # fmt: skip
from unibus.errors import BatchError, OutcomeUnknown, Rejected

Kind: TypeAlias = Literal["open", "declare", "send", "subscribe", "receive", "settle", "extend", "depth", "close"]


@dataclass(frozen=True)
class Call:
    """One call of the core. items: the messages of a send, the deliveries of a settle or an extend."""

    kind: Kind
    target: Address | None = None
    items: Sequence[Any] = ()
    outcome: Outcome | None = None

    @property
    def name(self) -> str:
        return self.target.name if self.target is not None else ""


Proceed: TypeAlias = Callable[[Sequence[Any]], Awaitable[Any]]
"""Make the call for these items."""


class Fault(Protocol):
    """In place of a call: `await proceed(call.items)` makes it."""

    async def __call__(self, call: Call, proceed: Proceed, /) -> Any: ...


class _Rule:
    def __init__(self, kind: Kind, fault: Fault, when: Callable[[Call], bool], skip: int, times: int | None) -> None:
        self.kind = kind
        self.fault = fault
        self.when = when
        self.skip = skip
        self.times = times

    def takes(self, call: Call) -> bool:
        if self.kind != call.kind or self.times == 0 or not self.when(call):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Faults:
    """The faults of the buses that are given `connect`, and the calls that they made, in order.

    `add` says which calls fail, and how; rules are asked in the order in which they were added,
    the first that takes a call has it.
    """

    narrow: Callable[[Capabilities], Capabilities] = lambda capabilities: capabilities
    """Capabilities below those of the driver, such as smaller batches."""
    calls: list[Call] = field(default_factory=list)
    subscriptions: list[FaultySubscription] = field(default_factory=list)
    _rules: list[_Rule] = field(default_factory=list)

    def connect(self, connect: Connect) -> Connect:
        """For `Bus(connect=…)`."""
        return lambda url, clock: FaultyDriver(self, connect, url, clock)

    def add(
        self,
        kind: Kind,
        fault: Fault,
        *,
        when: Callable[[Call], bool] = lambda call: True,
        skip: int = 0,
        times: int | None = 1,
    ) -> None:
        """From the call after `skip` on that `when` says yes to, so many `times` (None: until `clear`)."""
        self._rules.append(_Rule(kind, fault, when, skip, times))

    def clear(self) -> None:
        self._rules.clear()

    def of(self, kind: Kind) -> list[Call]:
        return [call for call in self.calls if call.kind == kind]

    @property
    def held(self) -> list[Delivery]:
        """What was received and is not settled."""
        return [delivery for subscription in self.subscriptions for delivery in subscription.held]

    def emit(self, event: DriverEvent) -> None:
        """As if the drivers had noticed something."""
        for subscription in self.subscriptions:
            subscription.notify(event)

    def lose(self) -> list[Delivery]:
        """As if the broker had taken away all that is held; what is settled after is stale."""
        lost = []
        for subscription in self.subscriptions:
            gone = list(subscription.held)
            subscription.held.clear()
            subscription.lost.update(gone)
            subscription.notify(Lost(gone))
            lost += gone
        return lost

    async def pass_through(self, call: Call, proceed: Proceed) -> Any:
        self.calls.append(call)
        for rule in self._rules:
            if rule.takes(call):
                return await rule.fault(call, proceed)
        return await proceed(call.items)


class FaultyDriver:
    """Passes every call through the faults."""

    def __init__(self, faults: Faults, connect: Connect, url: Url, clock: Clock) -> None:
        self._faults = faults
        self.inner = connect(url, clock)

    @property
    def capabilities(self) -> Capabilities:
        return self._faults.narrow(self.inner.capabilities)

    async def open(self) -> None:
        await self._faults.pass_through(Call("open"), lambda _: self.inner.open())

    async def declare(self, topology: Topology) -> None:
        await self._faults.pass_through(Call("declare", None, (topology,)), lambda _: self.inner.declare(topology))

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        await self._faults.pass_through(Call("send", address, messages), lambda items: self.inner.send(address, items))

    async def subscribe(self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]) -> Subscription:
        async def proceed(_: Sequence[Any]) -> Subscription:
            return await self.inner.subscribe(source, prefetch=prefetch, notify=notify)

        inner: Subscription = await self._faults.pass_through(Call("subscribe", source), proceed)
        kind = _KINDS[isinstance(inner, LeaseExtender), isinstance(inner, Narrowing)]
        made = kind(self._faults, source, inner, notify)
        self._faults.subscriptions.append(made)
        return made

    async def depth(self, source: Source) -> Depth:
        depth: Depth = await self._faults.pass_through(Call("depth", source), lambda _: self.inner.depth(source))
        return depth

    async def close(self) -> None:
        await self._faults.pass_through(Call("close"), lambda _: self.inner.close())


class FaultySubscription:
    """held: received and not settled, in order. lost: taken away by `Faults.lose`."""

    def __init__(
        self, faults: Faults, source: Source, inner: Subscription, notify: Callable[[DriverEvent], None]
    ) -> None:
        self._faults = faults
        self.source = source
        self.inner = inner
        self.notify = notify
        self.held: dict[Delivery, None] = {}
        self.lost: set[Delivery] = set()

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Delivery]:
        batch: Sequence[Delivery] = await self._faults.pass_through(
            Call("receive", self.source), lambda _: self.inner.receive(max_messages, max_wait)
        )
        self.held.update(dict.fromkeys(batch))
        return batch

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        async def proceed(items: Sequence[Any]) -> None:
            await self.inner.settle(items, outcome, delay=delay)
            for delivery in items:
                self.held.pop(delivery, None)

        await self._faults.pass_through(Call("settle", self.source, deliveries, outcome), proceed)

    async def close(self) -> None:
        self.held.clear()
        await self.inner.close()


class FaultyLeases(FaultySubscription):
    """For drivers with leases."""

    async def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        async def proceed(items: Sequence[Any]) -> None:
            assert isinstance(self.inner, LeaseExtender)
            await self.inner.extend(items, seconds)

        await self._faults.pass_through(Call("extend", self.source, deliveries), proceed)


class FaultyPush(FaultySubscription):
    """For drivers to which the broker pushes."""

    async def hold_at_most(self, deliveries: int) -> None:
        assert isinstance(self.inner, Narrowing)
        await self.inner.hold_at_most(deliveries)


class FaultyLeasedPush(FaultyLeases, FaultyPush):
    """For those that have both."""


_KINDS: Mapping[tuple[bool, bool], type[FaultySubscription]] = {
    (False, False): FaultySubscription,
    (True, False): FaultyLeases,
    (False, True): FaultyPush,
    (True, True): FaultyLeasedPush,
}
"""By whether it extends leases, and whether it narrows."""


def innermost(driver: Driver) -> Driver:
    """The driver without faults around it."""
    while isinstance(driver, FaultyDriver):
        driver = driver.inner
    return driver


# --- faults -------------------------------------------------------------------------------------------


def raising(make: Callable[[], BaseException]) -> Fault:
    """Fail without making the call."""

    async def fault(call: Call, proceed: Proceed) -> Any:
        raise make()

    return fault


def raising_after(make: Callable[[], BaseException]) -> Fault:
    """Make the call, then fail: the answer was lost."""

    async def fault(call: Call, proceed: Proceed) -> Any:
        await proceed(call.items)
        raise make()

    return fault


def rejecting(which: Callable[[Outbound], bool] = lambda message: True) -> Fault:
    """Do not store these messages of a send; the others are stored."""

    async def fault(call: Call, proceed: Proceed) -> None:
        refused = {index: Rejected("refused by a test") for index, item in enumerate(call.items) if which(item)}
        others = [item for index, item in enumerate(call.items) if index not in refused]
        if others:
            await proceed(others)
        if refused:
            raise BatchError(refused, len(call.items))

    return fault


def unanswered(which: Callable[[Outbound], bool] = lambda message: True) -> Fault:
    """Store all messages of a send, and do not confirm these."""

    async def fault(call: Call, proceed: Proceed) -> None:
        await proceed(call.items)
        unknown = {
            index: OutcomeUnknown("no answer, in a test") for index, item in enumerate(call.items) if which(item)
        }
        if unknown:
            raise BatchError(unknown, len(call.items))

    return fault


class Hold:
    """Hold calls until `release`; `reached` is set when the first one is held. answer: hold the answer instead."""

    def __init__(self, *, answer: bool = False) -> None:
        self.reached = asyncio.Event()
        self._released = asyncio.Event()
        self._answer = answer

    def release(self) -> None:
        self._released.set()

    async def __call__(self, call: Call, proceed: Proceed, /) -> Any:
        result = await proceed(call.items) if self._answer else None
        self.reached.set()
        await self._released.wait()
        return result if self._answer else await proceed(call.items)

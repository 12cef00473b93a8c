"""Helpers of the cases that call a driver directly."""

from __future__ import annotations

from collections.abc import Sequence

from unibus.driver import (
    Delivery,
    Driver,
    DriverEvent,
    Outbound,
    Outcome,
    Queue,
    Subscription,
    TopicSubscription,
    Topology,
)  # fmt: skip
from unibus.testing.harness import Harness


def out(name: object, **more: object) -> Outbound:
    message = Outbound(str(name).encode(), {"type": "t"}, {"h": "1"}, None, str(name))
    for field, value in more.items():
        setattr(message, field, value)
    return message


def outs(*names: object) -> list[Outbound]:
    return [out(name) for name in names]


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.message_id for delivery in deliveries]


class Events(list[DriverEvent]):
    """A `notify` that remembers."""

    def __call__(self, event: DriverEvent) -> None:
        self.append(event)


async def subscribed(
    driver: Driver, source: Queue | TopicSubscription, *, prefetch: int = 100, events: Events | None = None
) -> Subscription:
    if not isinstance(source, TopicSubscription) or source.group is not None:
        await driver.declare(Topology(create=(source,)))
    return await driver.subscribe(source, prefetch=prefetch, notify=events if events is not None else Events())


async def put(driver: Driver, queue: Queue, messages: Sequence[Outbound]) -> None:
    """Send, in calls as large as the driver takes."""
    most = driver.capabilities.send.messages
    for start in range(0, len(messages), most):
        await driver.send(queue, messages[start : start + most])


async def settle(driver: Driver, subscription: Subscription, deliveries: Sequence[Delivery], outcome: Outcome) -> None:
    """Settle, in calls as large as the driver takes."""
    most = driver.capabilities.settle.messages
    for start in range(0, len(deliveries), most):
        await subscription.settle(deliveries[start : start + most], outcome)


async def take(harness: Harness, subscription: Subscription, count: int) -> list[Delivery]:
    """Exactly so many deliveries."""
    got: list[Delivery] = []
    while len(got) < count:
        batch = await harness.passing(subscription.receive(count - len(got), harness.patience))
        assert batch, f"{len(got)} of {count} deliveries came"
        got += batch
    return got

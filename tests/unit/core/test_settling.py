"""Settling: what becomes one call, what waits for more, and what never does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter

import pytest

from tests.unit.core.orders import Order
from tests.unit.core.recount import Recount
from unibus import Bus, Drop, Queue, registry
from unibus.driver import Clock, Delivery, Driver, Limits, Outcome, Url
from unibus.errors import SettlementLost
from unibus.settler import LONGEST_DEFERRAL, WORTH_A_CALL, Settler
from unibus.testing import App, MovableClock


def delivery(number: int) -> Delivery:
    return Delivery(b"", {}, {}, None, str(number), "orders", None, 1, False, number)


async def some_rounds() -> None:
    """Of the loop: for a call that was scheduled, and its task."""
    for _ in range(3):
        await asyncio.sleep(0)


class Subscribed:
    """A subscription that notes what is settled, call by call."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], Outcome]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Delivery]:
        return []

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        self.calls.append(([each.token for each in deliveries], outcome))
        await self.gate.wait()

    async def close(self) -> None: ...


def settler_of(
    subscription: Subscribed,
    limits: Limits,
    settled: Callable[[Sequence[Delivery], int], None] = lambda deliveries, lost: None,
    more_to_come: Callable[[], bool] = lambda: False,
) -> Settler:
    return Settler(subscription, limits, MovableClock(), settled, more_to_come)


async def test_settles_keep_to_the_limits_and_outcomes_do_not_mix() -> None:
    subscription, gone = Subscribed(), list[int]()
    settler = settler_of(subscription, Limits(messages=3, calls=1), lambda ds, _: gone.extend(d.token for d in ds))
    for number in range(7):
        settler.ack(delivery(number))
    settler.settle([delivery(7), delivery(8)], Outcome.NACK)
    settler.settle([delivery(9)], Outcome.REJECT)
    settler.settle([delivery(10)], Outcome.NACK)
    settler.settle([delivery(11)], Outcome.ACK)
    await settler.flush()
    assert subscription.calls == [
        ([0, 1, 2], Outcome.ACK),
        ([3, 4, 5], Outcome.ACK),
        ([6, 11], Outcome.ACK),
        ([7, 8, 10], Outcome.NACK),
        ([9], Outcome.REJECT),
    ]
    assert sorted(gone) == list(range(12))
    await settler.flush()


async def test_no_more_settles_are_in_flight_than_may_be() -> None:
    subscription = Subscribed()
    subscription.gate.clear()
    settler = settler_of(subscription, Limits(messages=1, calls=2))
    for number in range(4):
        settler.ack(delivery(number))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(subscription.calls) == 2
    subscription.gate.set()
    await settler.flush()
    assert len(subscription.calls) == 4


async def test_while_handlers_follow_each_other_acks_wait_until_a_call_is_worth_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unibus.settler.LONGEST_DEFERRAL", 60.0)
    subscription, following = Subscribed(), True
    settler = settler_of(subscription, Limits(), more_to_come=lambda: following)
    for number in range(WORTH_A_CALL):
        await some_rounds()
        assert subscription.calls == []
        settler.ack(delivery(number))
    await some_rounds()
    assert [len(tokens) for tokens, _ in subscription.calls] == [WORTH_A_CALL]
    settler.ack(delivery(100))
    following = False
    await some_rounds()
    assert subscription.calls[1:] == [([100], Outcome.ACK)]


async def test_acks_that_wait_are_looked_at_once_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many calls end meanwhile, and not at all once nothing waits."""
    monkeypatch.setattr("unibus.settler.LONGEST_DEFERRAL", 60.0)
    subscription, looks, following = Subscribed(), 0, False

    def look() -> bool:
        nonlocal looks
        looks += 1
        return following

    subscription.gate.clear()
    settler = settler_of(subscription, Limits(calls=1), more_to_come=look)
    for number in range(2):
        settler.ack(delivery(number))
        await some_rounds()
    assert len(subscription.calls) == 1, "the second waits for the first"
    following = True
    subscription.gate.set()
    await some_rounds()
    settler.ack(delivery(2))
    looks = 0
    for _ in range(10):
        await asyncio.sleep(0)
    assert looks <= 10
    settler.abort()
    await some_rounds()
    looks = 0
    await some_rounds()
    assert looks == 0


async def test_acks_do_not_wait_for_long_while_handlers_follow_each_other() -> None:
    subscription = Subscribed()
    settler = settler_of(subscription, Limits(), more_to_come=lambda: True)
    began = perf_counter()
    settler.ack(delivery(1))
    async with asyncio.timeout(5):
        while not subscription.calls:
            await asyncio.sleep(0)
    assert perf_counter() - began >= LONGEST_DEFERRAL
    settler.ack(delivery(2))  # which may wait as long again
    await settler.flush()
    assert perf_counter() - began >= 2 * LONGEST_DEFERRAL
    assert [tokens for tokens, _ in subscription.calls] == [[1], [2]]


async def test_what_is_given_back_does_not_wait_for_acks() -> None:
    subscription = Subscribed()
    settler = settler_of(subscription, Limits(), more_to_come=lambda: True)
    settler.settle([delivery(1)], Outcome.NACK)
    await some_rounds()
    assert subscription.calls == [([1], Outcome.NACK)]


async def test_abort_settles_nothing_more() -> None:
    subscription = Subscribed()
    settler = settler_of(subscription, Limits())
    settler.ack(delivery(1))
    settler.settle([delivery(2)], Outcome.NACK)
    settler.abort()
    await settler.flush()
    assert subscription.calls == []


async def test_dropping_is_a_reject_at_the_broker_and_counted() -> None:
    made: list[Recount] = []

    def connect(url: Url, clock: Clock) -> Driver:
        made.append(Recount(registry.connect(url, clock), {}))
        return made[0]

    clock = MovableClock()
    bus = Bus("memory://", clock=clock, connect=connect)

    @bus.consumer(Queue("orders", ordering="key"))
    async def handle(order: Order) -> None:
        raise Drop

    async with bus.consuming():
        for number in range(3):
            await bus.producer("orders").send(Order(id=number), key="k")
        await App(bus, clock).settled()
        assert bus.stats()["orders"].dropped == 3
    assert [outcome for _, outcome in made[0].settled] == [Outcome.REJECT] * 3


async def test_lost_settlements_of_several_are_counted_each() -> None:
    class Stale(Subscribed):
        async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
            raise SettlementLost("stale", count=2)

    counted: list[int] = []
    settler = settler_of(Stale(), Limits(), lambda deliveries, lost: counted.append(lost))
    settler.ack(delivery(1))
    await settler.flush()
    assert counted == [2]

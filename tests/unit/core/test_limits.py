"""Limits and leftovers of verdicts and waiting: what a broker cannot delay, hold or carry."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.core.orders import Order
from tests.unit.core.recount import Recount
from unibus import Bus, Message, Queue, Reject, Retry, constant, dead_letter, idempotent, registry, retry
from unibus.driver import Clock, Delivery, Driver, Url
from unibus.envelope import size_of
from unibus.testing import App, MovableClock, Sent, app
from unibus.waiting import Waiting


def delivery(number: int) -> Delivery:
    return Delivery(b"", {}, {}, None, str(number), "orders", None, 1, False, number)


def reasons(sent: list[Sent]) -> list[str]:
    return [each.dead_letter.reason for each in sent if each.dead_letter is not None]


# --- waits that cannot be had -----------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "dead"), [(100, False), (101, True)])
async def test_a_wait_beyond_what_the_broker_delays_is_a_dead_letter_that_says_so(after: float, dead: bool) -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order, message: Message[Order]) -> None:
        if message.attempt == 1:
            raise Retry(after=after, cause=ValueError("because"))

    async with app(bus, "memory://?delay_max=100") as t:
        await t.send("orders", Order(id=1))
        await t.settled()
        found = t.dead_letters("orders")
    assert len(found) == dead
    if dead:
        record = found[0].dead_letter
        assert record is not None
        assert record.reason == "a retry after 101 s was asked for; the broker delays 100 s at most"
        assert (record.error_type, record.attempts) == ("ValueError", 1)


async def test_a_wait_where_the_broker_has_no_delays() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=2, backoff=constant(0.5))
    async def handle(order: Order, message: Message[Order]) -> None:
        if message.attempt == 1:
            raise Retry(after=1)

    async with app(bus, "memory://?delay=off") as t:
        await t.send("orders", Order(id=1))
        await t.settled()
        assert reasons(t.dead_letters("orders")) == [
            "a retry after 1 s was asked for; the broker cannot delay messages"
        ]


@pytest.mark.parametrize(("after", "runs"), [(60, 2), (61, 1)])
async def test_an_ephemeral_subscribers_message_waits_a_minute_at_most(after: float, runs: int) -> None:
    bus = Bus("memory://")
    ran: list[int] = []

    @bus.subscriber("order.*")
    @dead_letter("lost.and.found")
    async def handle(order: Order, message: Message[Order]) -> None:
        ran.append(message.attempt)
        if message.attempt == 1:
            raise Retry(after=after)

    async with app(bus) as t:
        await t.publish("order.created", Order(id=1))
        await t.settled()
        assert len(t.sent("lost.and.found")) == 2 - runs
    assert len(ran) == runs


@pytest.mark.parametrize(("after", "dead"), [(50, 0), (51, 1)])
async def test_on_an_ordered_address_a_wait_is_bounded_by_how_long_a_message_may_be_held(
    after: float, dead: int
) -> None:
    bus = Bus("memory://")

    @bus.consumer(Queue("orders", ordering="key"))
    @retry(on=ValueError, attempts=2, backoff=constant(1))
    async def handle(order: Order, message: Message[Order]) -> None:
        if message.attempt == 1:
            raise Retry(after=after)

    async with app(bus, "memory://?hold=150&lease=30") as t:
        await t.send("orders", Order(id=1), key="k")
        await t.settled()
        assert len(t.dead_letters("orders")) == dead


async def test_block_keeps_a_key_back_for_ever_and_no_other() -> None:
    bus = Bus("memory://")
    runs: list[tuple[str | None, int]] = []
    broken = True

    @bus.consumer(Queue("orders", ordering="key"))
    @retry(on=(ValueError, KeyError), attempts=2, backoff=constant(10), on_exhausted="block")
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append((message.key, order.id))
        if order.id == 1 and broken:
            raise KeyError

    async with app(bus) as t:
        await t.send("orders", Order(id=1), key="a")
        await t.send("orders", Order(id=2), key="a")
        await t.send("orders", Order(id=3), key="b")
        await t.clock.advance(95)
        assert runs.count(("a", 1)) == 10
        assert ("a", 2) not in runs
        assert ("b", 3) in runs
        broken = False
        await t.settled()
        assert t.dead_letters("orders") == []
    assert runs[-1] == ("a", 2)


async def test_the_default_policy_is_four_runs() -> None:
    bus = Bus("memory://")
    runs: dict[str, int] = {"stated": 0, "unstated": 0}

    @bus.consumer("stated")
    @retry(on=ValueError)
    async def stated(order: Order) -> None:
        runs["stated"] += 1
        raise ValueError("no")

    @bus.consumer("unstated")
    async def unstated(order: Order) -> None:
        runs["unstated"] += 1
        raise LookupError

    async with app(bus) as t:
        for queue in runs:
            await t.send(queue, Order(id=1))
        await t.settled()
    assert runs == {"stated": 4, "unstated": 4}


# --- dead letters that must fit -----------------------------------------------------------------------------


class Counted(Recount):
    """A broker whose limit counts attributes and headers, too."""

    limit = 0

    @property
    def capabilities(self) -> Any:
        limit = self.limit or None
        return dataclasses.replace(super().capabilities, max_body=limit, body_limit_counts_metadata=True)


@pytest.mark.parametrize("room", [5000, 700])
async def test_where_metadata_counts_the_record_is_cut_and_never_the_body(room: int) -> None:
    sizes: list[int] = []
    bodies: list[bytes | None] = []
    text = "x" * 800

    class Noting(Counted):
        limit = room

        async def send(self, address: Any, messages: Sequence[Any]) -> None:
            if address.name == "orders.dlq":
                sizes.extend(size_of(message, with_metadata=True) for message in messages)
                bodies.extend(message.body for message in messages)
            await super().send(address, messages)

    def connect(url: Url, clock: Clock) -> Driver:
        return Noting(registry.connect(url, clock), {})

    clock = MovableClock()
    bus = Bus("memory://", clock=clock, connect=connect)

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        raise Reject("no", LookupError(text))

    async with bus.consuming():
        await bus.producer("orders").send(Order(id=1), headers={"a": "b" * 50})
        await App(bus, clock).settled()
    assert bodies == [b'{"id":1}']
    assert sizes[0] <= room
    assert sizes[0] > room - 30 or room == 5000  # no more is cut than must be


async def test_a_record_that_fits_is_not_cut() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        raise LookupError("x" * 500)

    async with app(bus, "memory://?max_body=20") as t:  # the limit is the body's alone
        await t.send("orders", Order(id=1))
        await t.settled()
        (dead,) = t.dead_letters("orders")
    assert dead.dead_letter is not None
    assert dead.dead_letter.message == "x" * 500


# --- waiting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
async def test_early_releases_do_not_disturb_those_that_wait(seed: int) -> None:
    dice, clock = random.Random(seed), MovableClock()
    went: list[tuple[int, float]] = []
    waiting = Waiting(clock, lambda gone: went.append((gone.token, clock.monotonic() - 1000.0)))
    stay = {number: dice.uniform(1, 50) for number in range(100)}
    for number, seconds in stay.items():
        waiting.add(delivery(number), seconds)
        for early in range(10):  # nine of ten of the heap's entries become stale
            passing = delivery(1000 + early)
            waiting.add(passing, dice.uniform(0, 60))
            waiting.remove(passing)
    await clock.advance(60)
    assert [number for number, _ in went] == sorted(stay, key=lambda number: stay[number])
    assert all(abs(at - stay[number]) < 1e-6 for number, at in went)
    assert clock.next_due() is None


# --- claims at close --------------------------------------------------------------------------------------------


async def test_a_closed_bus_leaves_no_timer_behind() -> None:
    clock = MovableClock()
    bus = Bus("memory://", clock=clock, idempotency_store="memory")

    @bus.consumer("orders")
    @idempotent()
    async def handle(order: Order) -> None:
        await clock.sleep(50)

    async with bus:
        await bus.producer("orders").send(Order(id=1))
        async with bus.consuming():
            await clock.advance(45)  # a renewal is due meanwhile
            await clock.advance(10)
    await clock.quiet()
    assert clock.next_due() is None

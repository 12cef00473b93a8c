"""Turns: the line of those who wait for a rate, when some are lost, compete, or cannot ask their store."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import pytest

from tests.unit.core.punctuality import START
from unibus import Bus, Message, rate_limit
from unibus.driver import Delivery, Lost
from unibus.errors import ConnectionLost
from unibus.rates import MemoryRates
from unibus.stats import ConsumerStats
from unibus.testing import MovableClock, app
from unibus.turns import Turns


class Store:
    """A store of rates that can be switched off."""

    def __init__(self) -> None:
        self.opened = self.closed = self.asked = 0
        self.down = self.refusing = False
        self.answering: asyncio.Event | None = None

    async def open(self) -> None:
        self.opened += 1

    async def take(self, name: str, amount: int, limit: int, per: float, burst: int) -> float:
        self.asked += 1
        if self.down:
            raise ConnectionLost("redis is away")
        if self.answering is not None:
            await self.answering.wait()
        return 1.0 if self.refusing else 0.0

    async def close(self) -> None:
        self.closed += 1


def a_delivery(number: int) -> Delivery:
    return Delivery(b"", {}, {}, None, str(number), "orders", None, 1, False, number)


class CoarseClock(MovableClock):
    """Its timers are late, as those of a busy loop are: several turns are due at once."""

    def call_later(self, seconds: float, callback: Any) -> Any:
        return super().call_later(math.ceil(seconds / 0.05) * 0.05, callback)


# --- the line ----------------------------------------------------------------------------------------------


async def test_those_who_compete_for_a_limit_ask_seldom_and_none_is_left_behind() -> None:
    """Four processes, and each thinks that the whole rate is its own."""
    clock, asked, began = MovableClock(), [0], dict[tuple[int, int], float]()
    store = MemoryRates(clock)

    async def take(amount: int) -> float:
        asked[0] += 1
        return await store.take("shared", amount, 10, 1.0, 10)

    async def one(turns: Turns, process: int, number: int) -> None:
        delivery = a_delivery(number)
        while (turn := (await turns.ask([delivery], lambda: True))[0]) is not None:
            await turn.called
        began[process, number] = clock.monotonic() - START

    running = []
    for process in range(4):
        turns = Turns(take, 0.1, 10, clock, ConsumerStats())
        running += [asyncio.create_task(one(turns, process, number)) for number in range(50)]
    while not all(task.done() for task in running):
        assert await clock.advance_to_next()
    times = sorted(began.values())
    assert all(time >= (number - 9) * 0.1 - 0.001 for number, time in enumerate(times)), "over the rate"
    assert times[-1] <= 1.5 * 19, "the rate is not used"
    assert asked[0] <= 200 * 5, "a herd"
    for process in range(4):
        assert sorted(range(50), key=lambda number: began[process, number]) == list(range(50)), "left behind"


async def test_what_was_lost_holds_back_nobody() -> None:
    bus, began = Bus("memory://"), list[tuple[float, int]]()

    @bus.consumer("orders", prefetch=6)
    @rate_limit(1, per=1.0)
    async def handle(number: int) -> None:
        began.append((t.clock.monotonic() - START, number))

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(6))
        await t.clock.advance(0.5)
        (consumer,) = t.bus.session.consumers
        in_line = [delivery for delivery in consumer.held if delivery in consumer.waiting]
        assert len(in_line) == 5
        consumer._on_event(Lost(in_line[:4]))
        await t.clock.advance(1)
        assert began == [(0, 0), (1, 5)]


async def test_who_is_lost_while_the_store_is_asked_holds_back_nobody() -> None:
    bus, store, began = Bus("memory://"), Store(), list[int]()

    @bus.consumer("orders", prefetch=4)
    @rate_limit(1, per=1.0, store=store)
    async def handle(number: int) -> None:
        began.append(number)

    async with app(bus) as t:
        store.refusing = True
        await bus.producer("orders").send_many(range(4))
        await t.clock.advance(0.5)
        assert store.asked == 1, "the others found a line"
        store.refusing, store.answering = False, asyncio.Event()
        await t.clock.advance(1)
        (consumer,) = t.bus.session.consumers
        (asking,) = [delivery for lane in consumer.lanes for delivery in lane.held]
        consumer._on_event(Lost([asking]))
        store.answering.set()
        await t.clock.advance(5)
        assert bus.stats()["orders"].rate_limited == 4
        await t.send("orders", 4)
        await t.settled()
        assert bus.stats()["orders"].rate_limited == 4, "nobody is waited for"
    assert began[:4] == [1, 2, 3, 4]  # then the one that was lost, when its lease has ended


async def test_while_one_is_asking_for_long_those_who_come_are_not_all_called_at_once() -> None:
    clock, answering = MovableClock(), asyncio.Event()

    async def take(amount: int) -> float:
        if clock.monotonic() > START:
            await answering.wait()
        return 1.0

    turns = Turns(take, 1.0, 1, clock, ConsumerStats())
    (first,) = await turns.ask([slow := a_delivery(0)], lambda: True)
    await clock.advance(1)
    assert first is not None
    assert first.called.done()
    asking = asyncio.create_task(turns.ask([slow], lambda: True))
    await clock.advance(100)
    later = [(await turns.ask([a_delivery(number)], lambda: True))[0] for number in range(1, 20)]
    await clock.advance(0)
    assert [turn is not None and turn.called.done() for turn in later] == [True] + [False] * 18
    answering.set()
    assert await asking != [None]


async def test_each_is_asked_for_once_where_nobody_competes() -> None:
    clock, asked = MovableClock(), [0]
    store = MemoryRates(clock)

    async def take(amount: int) -> float:
        asked[0] += 1
        return await store.take("x", amount, 10, 1.0, 10)

    turns = Turns(take, 0.1, 10, clock, ConsumerStats())

    async def one(delivery: Delivery) -> None:
        while (turn := (await turns.ask([delivery], lambda: True))[0]) is not None:
            await turn.called

    running = [asyncio.create_task(one(a_delivery(number))) for number in range(100)]
    await clock.advance(9.5)
    assert all(task.done() for task in running)
    assert asked == [101], "and once in vain, to learn when"


async def test_turns_that_are_due_together_are_called_in_order() -> None:
    clock, began = CoarseClock(), list[int]()
    bus = Bus("memory://turns-due-together", clock=clock)

    @bus.consumer("orders", concurrency=1)
    @rate_limit(100, per=1.0, burst=10)
    async def handle(number: int) -> None:
        began.append(number)

    async with bus, bus.consuming():
        await bus.producer("orders").send_many(range(40))
        await clock.advance(1)
    assert began == list(range(40))


async def test_a_store_is_asked_for_many_at_once_and_for_less_only_when_it_refuses() -> None:
    clock, asked = MovableClock(), list[int]()
    store = MemoryRates(clock)

    async def take(amount: int) -> float:
        asked.append(amount)
        return await store.take("x", amount, 40, 1.0, 40)

    turns = Turns(take, 1 / 40, 40, clock, ConsumerStats())
    assert await turns.ask([a_delivery(number) for number in range(30)], lambda: True) == [None] * 30
    assert asked == [30]
    assert (await turns.ask([a_delivery(number) for number in range(100)], lambda: True)).count(None) == 10
    assert asked[1:] == [40, 20, 10, 10, 5, 2, 1]


# --- a store that fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("fail_open", [False, True])
async def test_while_the_store_is_down_messages_wait_or_go_on_and_none_is_lost(
    fail_open: bool, batch: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bus, store, handled = Bus("memory://"), Store(), list[tuple[int, int]]()
    limited = rate_limit(100, store=store, fail_open=fail_open)

    if batch:

        @bus.consumer("orders", max_wait=0)
        @limited
        async def handle_many(messages: list[Message[int]]) -> None:
            handled.extend((message.data, message.attempt) for message in messages)

    else:

        @bus.consumer("orders")
        @limited
        async def handle(message: Message[int]) -> None:
            handled.append((message.data, message.attempt))

    async with app(bus) as t:
        store.down = True
        await bus.producer("orders").send_many(range(20))
        await t.clock.advance(90)
        assert len(handled) == (20 if fail_open else 0)
        assert store.asked <= 91, "asked again too soon"
        assert bus.health().ready == fail_open
        store.down = False
        await t.settled()
        await t.send("orders", 20)
        await t.settled()
    assert sorted(handled) == [(number, 1) for number in range(21)]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "redis is away" in warnings[0].getMessage()
    assert (store.opened, store.closed) == (1, 1)

"""Rate limit: nothing begins too early, what waits holds no lane and comes back in turn, whatever its store does."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from unibus import (
    Bus,
    ConfigurationError,
    Message,
    Queue,
    UnsupportedCapability,
    constant,
    idempotent,
    rate_limit,
    retry,
)
from unibus.driver import Delivery, Lost
from unibus.errors import ConnectionLost, MissingDependency
from unibus.idempotency.memory import MemoryStore
from unibus.idempotency.store import Claim
from unibus.rates import MemoryRates
from unibus.stats import ConsumerStats
from unibus.testing import App, MovableClock, app
from unibus.turns import Turns

START = 1000.0
LATE = 0.005
"""Seconds: turns are rounded up to milliseconds."""


def punctual(times: list[float], limit: int, per: float, burst: int | None = None) -> bool:
    """Whether each began when the rate allows it: never earlier, and no more than the grain later."""
    burst = limit if burst is None else burst
    due = [max(0.0, (number - burst + 1) * per / limit) for number in range(len(times))]
    return all(-0.001 <= time - at <= LATE for time, at in zip(sorted(times), due, strict=True))


def at_rest(t: App) -> bool:
    """Whether no lane has anything in hand."""
    return not any(lane.held for consumer in t.bus.session.consumers for lane in consumer.lanes)


# --- in the process ----------------------------------------------------------------------------------------


async def test_over_the_limit_messages_wait_without_a_lane_and_begin_in_turn() -> None:
    bus, began = Bus("memory://"), list[tuple[float, int, int]]()

    @bus.consumer("orders", concurrency=2)
    @rate_limit(10, per=1.0)
    async def handle(number: int, message: Message[int]) -> None:
        began.append((t.clock.monotonic() - START, number, message.attempt))

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(35))
        await t.clock.advance(0)
        assert len(began) == 10
        assert at_rest(t)
        await t.settled()
        stats = bus.stats()["orders"]
    assert [(number, attempt) for _, number, attempt in began] == [(number, 1) for number in range(35)]
    assert punctual([time for time, _, _ in began], 10, 1.0)
    assert (stats.rate_limited, stats.handled, stats.retried) == (25, 35, 0)


@pytest.mark.parametrize(
    ("limit", "per", "burst"), [(1, 60.0, None), (3, 1.0, None), (10, 1.0, 1), (7, 0.5, 3), (2000, 1.0, 5)]
)
async def test_rates_of_all_kinds_are_kept(limit: int, per: float, burst: int | None) -> None:
    bus, began = Bus("memory://"), list[float]()

    @bus.consumer("orders")
    @rate_limit(limit, per=per, burst=burst)
    async def handle(number: int) -> None:
        began.append(t.clock.monotonic() - START)

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(20))
        await t.settled()
    assert len(began) == 20
    assert punctual(began, limit, per, burst)


async def test_what_comes_later_does_not_overtake_what_waits() -> None:
    bus, began = Bus("memory://"), list[int]()

    @bus.consumer("orders", prefetch=1000)
    @rate_limit(1, per=1.0)
    async def handle(number: int) -> None:
        began.append(number)

    async with app(bus) as t:
        for number in range(30):
            await t.send("orders", number)
            await t.clock.advance(0.25)
        await t.settled()
    assert began == list(range(30))


async def test_a_batch_is_let_in_as_far_as_the_limit_goes() -> None:
    bus, began = Bus("memory://"), list[tuple[float, int]]()

    @bus.consumer("orders", max_batch=8, max_wait=0, concurrency=1)
    @rate_limit(5, per=1.0)
    async def handle(messages: list[Message[int]]) -> None:
        began.extend((t.clock.monotonic() - START, message.data) for message in messages)

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(23))
        await t.clock.advance(0)
        assert [number for _, number in began] == [0, 1, 2, 3, 4]
        assert at_rest(t)
        await t.settled()
    assert [number for _, number in began] == list(range(23))
    assert punctual([time for time, _ in began], 5, 1.0)


async def test_of_a_batch_that_fails_only_what_was_let_in_has_failed() -> None:
    bus, attempts = Bus("memory://"), list[tuple[int, int]]()

    @bus.consumer("orders", max_batch=4, max_wait=0, concurrency=1)
    @rate_limit(2, per=10)
    @retry(on=ValueError, attempts=2, backoff=constant(100))
    async def handle(messages: list[Message[int]]) -> None:
        attempts.extend((message.data, message.attempt) for message in messages)
        if len(attempts) <= 2:
            raise ValueError

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(4))
        await t.settled()
        assert t.dead_letters("orders") == []
    assert sorted(attempts) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (3, 1)]


async def test_retries_count_and_waiting_for_a_turn_claims_no_key() -> None:
    bus, began, claimed = Bus("memory://"), list[float](), list[str]()

    class Keys(MemoryStore):
        async def claim(self, keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
            claimed.extend(keys)
            return await super().claim(keys, owner, lease)

    @bus.consumer("orders")
    @idempotent(key=lambda message: "one key for all", store=Keys(MovableClock()))
    @retry(on=ValueError, attempts=9, backoff=constant(0))
    @rate_limit(1, per=10)
    async def handle(number: int, message: Message[int]) -> None:
        began.append(t.clock.monotonic() - START)
        if message.attempt < 3:
            raise ValueError

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(2))
        await t.settled()
        assert bus.stats()["orders"].skipped == 1
    assert len(began) == 5, "one waits for its turn without the key, and the other's run is over before"
    assert punctual(began, 1, 10)
    assert len(claimed) == 5 + 1


async def test_the_order_of_a_key_is_kept() -> None:
    bus, began = Bus("memory://"), list[str]()
    queue = Queue("orders", ordering="key")

    @bus.consumer(queue)
    @rate_limit(2, per=1.0)
    async def handle(what: str) -> None:
        began.append(what)

    async with app(bus) as t:
        sent = [f"{key}{number}" for number in range(10) for key in "abc"]
        await bus.producer(queue).send_many(sent, key=lambda what: what[0])
        await t.settled()
    assert sorted(began) == sorted(sent)
    for key in "abc":
        assert [what for what in began if what[0] == key] == [f"{key}{number}" for number in range(10)]


@pytest.mark.parametrize(("name", "together"), [("partner", True), (None, False)])
async def test_handlers_that_give_one_name_share_the_limit(name: str | None, together: bool) -> None:
    bus, began = Bus("memory://"), list[float]()

    async def handle(number: int) -> None:
        began.append(t.clock.monotonic() - START)

    for queue in ("orders", "invoices"):

        @bus.consumer(queue)
        @rate_limit(4, per=1.0, name=name)
        async def handler(number: int) -> None:
            await handle(number)

    async with app(bus) as t:
        for queue in ("orders", "invoices"):
            await bus.producer(queue).send_many(range(8))
        await t.settled()
    assert sum(time < 0.01 for time in began) == (4 if together else 8)
    assert max(began) >= (2.99 if together else 0.99)


async def test_what_waits_is_renewed_and_what_waits_at_the_end_goes_back() -> None:
    began = list[int]()

    def limited(clock: MovableClock) -> Bus:
        bus = Bus("memory://limited-and-stopped?lease=5", clock=clock)

        @bus.consumer("orders")
        @rate_limit(1, per=20)
        async def handle(number: int) -> None:
            began.append(number)

        return bus

    clock = MovableClock()
    async with limited(clock) as bus:
        async with bus.consuming():
            await bus.producer("orders").send_many(range(5))
            await clock.advance(50)
            stats = bus.stats()["orders"]
            assert (began, stats.received, stats.lost) == ([0, 1, 2], 5, 0)
        assert (stats.given_back, stats.retried) == (2, 0)
        assert (await bus.depth("orders")).ready == 2
    assert clock.next_due() is None, "nobody is called any more"


async def test_waiting_for_turns_is_no_stall_and_a_handler_that_hangs_is_one() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @rate_limit(1, per=600)
    async def handle(number: int) -> None:
        if number == 2:
            await t.clock.sleep(1e6)

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(4))
        await t.clock.advance(500)
        assert bus.health().ready, bus.health().reasons
        await t.clock.advance(700 + 100)
        assert not bus.health().ready, "the third hangs"


# --- turns -------------------------------------------------------------------------------------------------


def a_delivery(number: int) -> Delivery:
    return Delivery(b"", {}, {}, None, str(number), "orders", None, 1, False, number)


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


class CoarseClock(MovableClock):
    """Its timers are late, as those of a busy loop are: several turns are due at once."""

    def call_later(self, seconds: float, callback: Any) -> Any:
        return super().call_later(math.ceil(seconds / 0.05) * 0.05, callback)


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


# --- said at start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: rate_limit(0), r"limit=0\): a whole number, at least 1"),
        (lambda: rate_limit(1.5), r"limit=1\.5"),  # type: ignore[arg-type]
        (lambda: rate_limit(True), r"limit=True"),
        (lambda: rate_limit(5, burst=0), r"burst=0"),
        (lambda: rate_limit(5, per=0), r"per=0\): from 0\.001 s to 31,622,400 s"),
        (lambda: rate_limit(5, per=-1), r"per=…"),
        (lambda: rate_limit(5, per=float("nan")), r"per=…"),
        (lambda: rate_limit(5, per=1e9), r"per=1000000000\.0"),
        (lambda: rate_limit(5, name=""), r"name=''"),
    ],
)
def test_numbers_that_cannot_be_meant(make: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"rate_limit\(.*{says}"):
        make()


async def test_a_prefetch_that_cannot_be_worked_off_while_it_may_be_held_is_refused() -> None:
    for limit, per, prefetch, says in (
        (1, 2.0, 51, "with a prefetch of 51 the last waits 102 s.*held 100 s; use prefetch=50 or less"),
        (1, 101.0, 1, "use a higher rate"),
    ):
        bus = Bus("memory://?hold=300")

        @bus.consumer("orders", prefetch=prefetch)
        @rate_limit(limit, per=per)
        async def handle(number: int) -> None: ...

        with pytest.raises(UnsupportedCapability, match=rf"a rate limit of one in {per:g} s: .*{says}"):
            await bus.__aenter__()
    bus = Bus("memory://?hold=300")

    @bus.consumer("orders", prefetch=50)
    @rate_limit(1, per=2.0)
    async def fits(number: int) -> None: ...

    async with bus:
        pass


async def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @rate_limit(5)
    async def handle(number: int) -> None: ...

    monkeypatch.setitem(sys.modules, "pyrate_limiter", None)
    with pytest.raises(MissingDependency, match=r'test_rate_limit\.py.*pip install "unibus\[resilience\]"'):
        async with bus.consuming():
            pass


async def test_an_unknown_store_is_named() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @rate_limit(5, store="rediss+nonsense://user:CANARY@host")
    async def handle(number: int) -> None: ...

    with pytest.raises(ConfigurationError, match=r"no store of rates for rediss\+nonsense://") as caught:
        async with bus.consuming():
            pass
    assert "CANARY" not in str(caught.value)


async def test_a_limit_of_each_worker_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @rate_limit(5)
    async def handle(number: int) -> None: ...

    monkeypatch.setenv("UNIBUS_WORKERS", "4")
    async with bus:
        pass
    assert "each of 4 workers keeps the @rate_limit of" in caplog.text

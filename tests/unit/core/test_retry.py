"""Retry: when it ends, bad attributes and functions that fail, several policies, the budget."""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from unibus import (
    Bus,
    ConfigurationError,
    Message,
    Queue,
    Retry,
    UnsupportedCapability,
    constant,
    exponential,
    linear,
    retry,
)
from unibus import attributes as names
from unibus.driver import Outbound
from unibus.middleware.backoff import Backoff
from unibus.middleware.budget import FLOOR, WINDOW, Budget
from unibus.middleware.retry import RetryOption, RetryPolicy
from unibus.stats import ConsumerStats
from unibus.testing import App, MovableClock, app


async def forged(t: App, **attributes: str) -> None:
    """A message in "orders" with attributes that no bus has written."""
    await t.bus.session.driver.send(Queue("orders"), [Outbound(b"1", attributes, {}, None, "forged")])


# --- when it ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", [Queue("orders"), Queue("orders", ordering="key")])
async def test_max_elapsed_ends_retries_that_wait_in_the_process_too(queue: Queue) -> None:
    bus, runs = Bus("memory://"), list[float]()

    @bus.consumer(queue)
    @retry(on=ValueError, attempts=100, backoff=constant(0.5), max_elapsed=2)
    async def handle(number: int) -> None:
        runs.append(t.clock.monotonic() - 1000)
        raise ValueError

    async with app(bus) as t:
        await bus.producer(queue).send(1, key="k")
        await t.settled()
        (letter,) = t.dead_letters("orders")
    assert runs == [0, 0.5, 1, 1.5, 2]
    record = letter.dead_letter
    assert record is not None
    assert (record.first_failure, record.last_failure) == ("2026-01-01T00:00:00.000Z", "2026-01-01T00:00:02.000Z")
    assert names.FIRST_FAILURE not in letter.attributes


@pytest.mark.parametrize("first", ["yesterday", "", "2999-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00"])
async def test_a_forged_first_failure_does_not_outlive_the_first_run(first: str) -> None:
    bus, runs = Bus("memory://"), list[float]()

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=100, backoff=constant(30), max_elapsed=60)
    async def handle(number: int) -> None:
        runs.append(t.clock.monotonic() - 1000)
        raise ValueError

    async with app(bus) as t:
        await forged(t, unibusfirst=first)
        await t.settled()
        (letter,) = t.dead_letters("orders")
    assert runs == [0, 30, 60]
    assert letter.dead_letter is not None
    assert letter.dead_letter.first_failure == "2026-01-01T00:00:00.000Z"


@pytest.mark.parametrize(("attempt", "runs"), [("-1", 2), ("NaN", 2), ("0", 2), ("1000000000", 1)])
async def test_a_forged_attempt_is_the_first_or_the_last(attempt: str, runs: int) -> None:
    bus, seen = Bus("memory://"), list[int]()

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=2, backoff=constant(30))
    async def handle(message: Message[int]) -> None:
        seen.append(message.attempt)
        raise ValueError

    async with app(bus) as t:
        await forged(t, unibusattempt=attempt)
        await t.settled()
        assert len(t.dead_letters("orders")) == 1
    assert len(seen) == runs


async def test_one_that_blocks_keeps_to_its_last_wait() -> None:
    bus, waited = Bus("memory://"), list[float]()
    queue = Queue("orders", ordering="key")

    @bus.consumer(queue)
    @retry(on=ValueError, attempts=3, backoff=lambda failures: 10.0**failures, on_exhausted="block")
    async def handle(number: int, message: Message[int]) -> None:
        waited.append(t.clock.monotonic() - 1000)
        if message.attempt < 6:
            raise ValueError

    async with app(bus) as t:
        await bus.producer(queue).send(1, key="k")
        await t.settled()
    assert waited == [0, 10, 110, 210, 310, 410]


# --- what a handler asks for itself ------------------------------------------------------------------------


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), True])
async def test_a_nonsensical_wait_of_a_handler_is_a_failure_that_says_so(after: float) -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @retry(on=OSError, attempts=3)
    async def handle(number: int) -> None:
        raise Retry(after=after)

    async with app(bus) as t:
        await t.send("orders", 1)
        await t.settled()
        (letter,) = t.dead_letters("orders")
    assert letter.dead_letter is not None
    assert f"Retry(after=…): {after!r} is no duration" in letter.dead_letter.reason


@pytest.mark.parametrize(
    ("after", "url"),
    [(0.1, "memory://"), (0.1, "memory://?model=log"), (60, "memory://?model=log"), (24 * 3600, "memory://")],
)
async def test_from_a_tenth_of_a_second_to_a_day_no_lane_is_held(after: float, url: str) -> None:
    bus, ran = Bus("memory://"), list[tuple[int, float]]()

    @bus.subscriber("order.*", group="mail", concurrency=1)
    async def handle(number: int, message: Message[int]) -> None:
        ran.append((number, t.clock.monotonic() - 1000))
        if message.attempt == 1 and number < 3:
            raise Retry(after=after)

    @bus.subscriber("order.*", group="others")
    async def other(number: int) -> None:
        assert t.clock.monotonic() < 1000.1, "a retry is for one group alone"

    async with app(bus, url) as t:
        for number in range(4):
            await t.publish("order.paid", number)
        await t.clock.advance(0.05)
        assert ran == [(number, 0) for number in range(4)]
        assert not any(lane.held for consumer in bus.session.consumers for lane in consumer.lanes)
        await t.settled(within=2 * 24 * 3600)
    assert [(number, round(at, 6)) for number, at in sorted(ran[4:])] == [(number, after) for number in range(3)]


# --- functions of the user's that fail ---------------------------------------------------------------------


class Capricious:
    """A backoff that is sound when it is asked at start, and not when it is needed."""

    def __init__(self, later: Any) -> None:
        self.later = later
        self.started = False

    def __call__(self, failures: int) -> float:
        if not self.started:
            return 5.0
        answer: float = self.later(failures) if callable(self.later) else self.later
        return answer


def raises(failures: int) -> float:
    raise KeyError("backoff")


@pytest.mark.parametrize("later", [-1.0, float("nan"), None, raises])
async def test_a_backoff_that_fails_costs_no_message_and_is_said(later: Any, caplog: pytest.LogCaptureFixture) -> None:
    bus, attempts, backoff = Bus("memory://"), list[int](), Capricious(later)

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=3, backoff=backoff)
    async def handle(message: Message[int]) -> None:
        attempts.append(message.attempt)
        raise ValueError("mine")

    async with app(bus) as t:
        backoff.started = True
        with caplog.at_level(logging.ERROR, "unibus.consumer"):
            await t.send("orders", 1)
            await t.settled()
        (letter,) = t.dead_letters("orders")
    assert attempts == [1, 2, 3]
    assert letter.dead_letter is not None
    assert letter.dead_letter.reason == "failed 3 times: ValueError: mine"
    assert sum("the next attempt is in" in record.getMessage() for record in caplog.records) == 2


async def test_a_backoff_that_asks_for_more_than_the_broker_delays_waits_as_long_as_that() -> None:
    bus, ran, backoff = Bus("memory://"), list[float](), Capricious(1e6)

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=2, backoff=backoff)
    async def handle(number: int, message: Message[int]) -> None:
        ran.append(t.clock.monotonic() - 1000)
        if message.attempt == 1:
            raise ValueError

    async with app(bus, "memory://?delay_max=100") as t:
        backoff.started = True
        await t.send("orders", 1)
        await t.settled()
    assert ran == [0, 100]


@pytest.mark.parametrize("batch", [False, True])
async def test_a_retry_if_that_fails_takes_the_error(batch: bool, caplog: pytest.LogCaptureFixture) -> None:
    bus, attempts = Bus("memory://"), list[int]()

    def broken(error: BaseException) -> bool:
        raise AttributeError("no response")

    policy = retry(on=ValueError, attempts=2, backoff=constant(5), retry_if=broken)

    if batch:

        @bus.consumer("orders")
        @policy
        async def handle_many(messages: list[Message[int]]) -> None:
            attempts.extend(message.attempt for message in messages)
            for message in messages:
                message.mark = ValueError("mine")

    else:

        @bus.consumer("orders")
        @policy
        async def handle(message: Message[int]) -> None:
            attempts.append(message.attempt)
            raise ValueError("mine")

    async with app(bus) as t:
        await t.send("orders", 1)
        await t.settled()
        assert len(t.dead_letters("orders")) == 1
    assert attempts == [1, 2]
    assert "retry_if failed" in caplog.text


# --- several policies --------------------------------------------------------------------------------------


async def test_the_uppermost_policy_that_takes_an_error_decides_and_attempts_are_one_count() -> None:
    bus, ran = Bus("memory://"), list[tuple[float, int]]()
    errors = [TimeoutError(), ConnectionResetError(), ConnectionResetError(), OSError(), ConnectionResetError()]

    @bus.consumer("orders")
    @retry(on=TimeoutError, attempts=2, backoff=constant(7))
    @retry(on=ConnectionError, attempts=9, backoff=constant(100), retry_if=lambda error: len(ran) != 3)
    @retry(on=OSError, attempts=5, backoff=constant(1000))
    async def handle(number: int, message: Message[int]) -> None:
        ran.append((t.clock.monotonic() - 1000, message.attempt))
        if message.attempt <= len(errors):
            raise errors[message.attempt - 1]

    async with app(bus) as t:
        await t.send("orders", 1)
        await t.settled()
        assert t.dead_letters("orders") == []
    assert ran == [(0, 1), (7, 2), (107, 3), (1107, 4), (2107, 5), (2207, 6)], "the third was left to the lowest"


async def test_each_policy_ends_at_its_own_count() -> None:
    bus, runs = Bus("memory://"), dict[str, int]()

    @bus.consumer("orders")
    @retry(on=KeyError, attempts=1)
    @retry(on=(ValueError, LookupError), attempts=3, backoff=constant(5))
    async def handle(what: str) -> None:
        runs[what] = runs.get(what, 0) + 1
        raise {"key": KeyError, "value": ValueError, "index": IndexError, "type": TypeError}[what]

    async with app(bus) as t:
        for what in ("key", "value", "index", "type"):
            await t.send("orders", what)
        await t.settled()
        assert len(t.dead_letters("orders")) == 4
    assert runs == {"key": 1, "value": 3, "index": 3, "type": 1}


@pytest.mark.parametrize(("cause", "runs"), [(KeyError("k"), 2), (ValueError("v"), 4), (TypeError("t"), 2), (None, 2)])
async def test_a_handlers_own_retry_counts_for_the_policy_of_what_it_was_raised_from(
    cause: Exception | None, runs: int
) -> None:
    bus, ran = Bus("memory://"), list[float]()

    @bus.consumer("orders")
    @retry(on=KeyError, attempts=2)
    @retry(on=ValueError, attempts=4)
    async def handle(number: int) -> None:
        ran.append(t.clock.monotonic() - 1000)
        raise Retry(after=timedelta(minutes=2)) from cause

    async with app(bus) as t:
        await t.send("orders", 1)
        await t.settled()
        (letter,) = t.dead_letters("orders")
    assert ran == [120 * run for run in range(runs)]
    assert letter.dead_letter is not None
    assert letter.dead_letter.error_type == (type(cause).__name__ if cause else "unibus.outcome.Retry")


async def test_a_policy_that_can_never_decide_is_refused() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @retry(on=(OSError, KeyError))
    @retry(on=(ConnectionError, KeyError), attempts=9)
    async def handle(number: int) -> None: ...

    with pytest.raises(ConfigurationError, match=r"test_retry\.py.*on=ConnectionError, KeyError\) never decides"):
        await bus.__aenter__()


async def test_what_may_be_left_to_a_lower_policy_is_not_refused() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @retry(on=OSError, retry_if=lambda error: True)
    @retry(on=OSError, attempts=9)
    async def handle(number: int) -> None: ...

    async with bus:
        assert [policy.attempts for policy in bus.session.plans[0].retry.policies] == [4, 9]


async def test_the_longest_wait_of_all_policies_is_compared_with_the_broker() -> None:
    bus = Bus("memory://?delay_max=100")

    @bus.consumer("orders")
    @retry(on=KeyError, backoff=constant(1))
    @retry(on=OSError, backoff=constant(200))
    async def handle(number: int) -> None: ...

    with pytest.raises(UnsupportedCapability, match=r"retries after up to 200 s.*delays end at 100 s"):
        await bus.__aenter__()


def test_in_order_the_longest_wait_at_each_count_is_added_up() -> None:
    quick = RetryPolicy((KeyError,), attempts=6, backoff=constant(1))
    slow = RetryPolicy((OSError,), attempts=3, backoff=constant(20))
    blocking = RetryPolicy((OSError,), attempts=1, backoff=constant(20), on_exhausted="block")
    assert RetryOption((quick, slow)).total_wait() == 20 + 20 + 1 + 1 + 1
    assert RetryOption((quick, slow)).longest_wait() == 20
    assert RetryOption((blocking,)).total_wait() == 20
    assert RetryOption((RetryPolicy((OSError,), attempts=1, backoff=constant(9)),)).longest_wait() == 0
    many = RetryPolicy((OSError,), attempts=5001, backoff=exponential(1, max=60))
    assert 60 * 4990 < RetryOption((many,)).total_wait() <= 60 * 5000


async def test_the_configuration_overrides_every_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unibus.toml").write_text("[consumers.orders]\nretry_attempts = 2\nretry_budget = 0.5\n")
    monkeypatch.chdir(tmp_path)
    bus = Bus("memory://")

    @bus.consumer("orders")
    @retry(on=KeyError, attempts=7)
    @retry(on=OSError, backoff=constant(2), budget=0.1)
    async def handle(number: int) -> None: ...

    async with bus:
        policies = bus.session.plans[0].retry.policies
    assert [(policy.on, policy.attempts, policy.budget) for policy in policies] == [
        ((KeyError,), 2, 0.5),
        ((OSError,), 2, 0.5),
    ]


# --- the budget --------------------------------------------------------------------------------------------


def a_budget() -> tuple[Budget, ConsumerStats, MovableClock]:
    stats, clock = ConsumerStats(), MovableClock()
    return Budget("orders", stats, clock), stats, clock


async def test_a_quiet_consumer_may_always_retry() -> None:
    budget, stats, clock = a_budget()
    for _ in range(5):
        assert [budget.spend(0.2) for _ in range(FLOOR + 1)] == [True] * FLOOR + [False]
        await clock.advance(WINDOW)
    assert (stats.handled, stats.over_budget) == (0, 5)


async def test_a_budget_is_a_share_of_what_was_handled_within_the_window() -> None:
    budget, stats, clock = a_budget()
    for _ in range(40):  # 100 a second, with a failure tried each second
        await clock.advance(1)
        stats.handled += 100
        budget.spend(0.2)
    granted = sum(budget.spend(0.2) for _ in range(1000))
    assert 180 <= granted <= 200, "a fifth of 1,000, less the one a second that were granted before"
    await clock.advance(1)
    stats.handled += 100
    assert sum(budget.spend(0.2) for _ in range(1000)) <= 20


async def test_a_storm_after_a_long_calm_gets_no_more_than_the_share_of_a_window() -> None:
    budget, stats, clock = a_budget()
    await clock.advance(3600)
    stats.handled += 360_000  # 100 a second, and nobody has looked meanwhile
    assert 195 <= sum(budget.spend(0.2) for _ in range(1000)) <= 200


async def test_going_over_the_budget_is_told_once_until_it_was_kept_for_a_window(
    caplog: pytest.LogCaptureFixture,
) -> None:
    budget, _, clock = a_budget()
    for _ in range(20):
        for _ in range(FLOOR):
            budget.spend(0.2)
        await clock.advance(1)
    assert [record.getMessage() for record in caplog.records] == [
        "orders: retries are over their budget, 20 % of the 0 messages handled within 10 s; they wait longer"
    ]
    await clock.advance(2 * WINDOW)
    for _ in range(2 * FLOOR):
        budget.spend(0.2)
    assert len(caplog.records) == 2
    assert len(budget._marks) <= 12


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize(
    ("queue", "url", "backoff", "longer"),
    [
        pytest.param(Queue("orders"), "memory://", constant(2), 10, id="the window"),
        pytest.param(Queue("orders"), "memory://", lambda failures: [2, 40][failures - 1], 40, id="the longest wait"),
        pytest.param(Queue("orders"), "memory://?delay_max=6", constant(2), 6, id="what the broker delays"),
        pytest.param(Queue("orders"), "memory://?delay=off", constant(0.5), 0.9, id="what waits in the process"),
        pytest.param(Queue("orders", ordering="key"), "memory://", linear(2), 2, id="the longest of this attempt"),
    ],
)
async def test_what_is_over_the_budget_waits_longer_and_is_handled(
    queue: Queue, url: str, backoff: Backoff, longer: float, batch: bool
) -> None:
    bus, waited, failed_at = Bus("memory://"), list[float](), dict[int, float]()
    policy = retry(on=ValueError, attempts=3, backoff=backoff, budget=0.2)

    def one(message: Message[int]) -> None:
        if message.attempt == 1:
            failed_at[message.data] = t.clock.monotonic()
            raise ValueError
        waited.append(round(t.clock.monotonic() - failed_at[message.data], 3))

    if batch:

        @bus.consumer(queue, max_wait=0)
        @policy
        async def handle_many(messages: list[Message[int]]) -> None:
            for message in messages:
                try:
                    one(message)
                except ValueError as error:
                    message.mark = error

    else:

        @bus.consumer(queue)
        @policy
        async def handle(message: Message[int]) -> None:
            one(message)

    async with app(bus, url) as t:
        await bus.producer(queue).send_many(range(FLOOR + 4), key=str)
        await t.settled()
        assert t.dead_letters("orders") == []
        assert bus.stats()["orders"].over_budget == 4
    assert len(waited) == FLOOR + 4
    assert waited.count(longer) >= 4
    assert all(wait <= longer for wait in waited)


async def test_without_a_budget_none_is_kept() -> None:
    bus, ran = Bus("memory://"), list[float]()

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=2, backoff=constant(2))
    async def handle(message: Message[int]) -> None:
        if message.attempt == 1:
            raise ValueError
        ran.append(t.clock.monotonic() - 1000)

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(100))
        await t.settled()
        assert bus.stats()["orders"].over_budget == 0
    assert ran == [2] * 100


@pytest.mark.parametrize("budget", [0, -0.1, 1.5, 20, True, float("nan"), "20%"])
def test_a_budget_is_a_share(budget: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"retry\(budget=.*0\.2 is 20 %"):
        retry(on=ValueError, budget=budget)

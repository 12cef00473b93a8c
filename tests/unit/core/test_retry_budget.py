"""The budget of retries: a share of what was handled lately; what is over it waits longer."""

from __future__ import annotations

from typing import Any

import pytest

from unibus import (
    Bus,
    ConfigurationError,
    Message,
    Queue,
    constant,
    linear,
    retry,
)
from unibus.middleware.backoff import Backoff
from unibus.middleware.budget import FLOOR, WINDOW, Budget
from unibus.stats import ConsumerStats
from unibus.testing import MovableClock, app


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

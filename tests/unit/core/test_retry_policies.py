"""Several `@retry` on a handler: which one decides, and what they ask of the broker together."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from unibus import (
    Bus,
    ConfigurationError,
    Message,
    Retry,
    UnsupportedCapability,
    constant,
    exponential,
    retry,
)
from unibus.middleware.retry import RetryOption, RetryPolicy
from unibus.testing import app


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

    with pytest.raises(
        ConfigurationError, match=r"test_retry_policies\.py.*on=ConnectionError, KeyError\) never decides"
    ):
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

"""Bad arguments of decorators, backoffs and buses: refused at once, by name."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.unit.core.orders import Order
from tests.unit.core.refusals import here, refused
from unibus import (
    Bus,
    ConfigurationError,
    Queue,
    Retry,
    Topic,
    constant,
    dead_letter,
    exponential,
    idempotent,
    linear,
    retry,
    timeout,
)
from unibus.attributes import MAX_ATTEMPT


def test_two_decorators_of_one_kind() -> None:
    with pytest.raises(ConfigurationError, match="two @timeout"):

        @timeout(1)
        @timeout(2)
        async def handle(order: Order) -> None: ...


@pytest.mark.parametrize(
    "make",
    [
        lambda: retry(on=ValueError, max_elapsed=0),
        lambda: retry(on=ValueError, backoff=5),  # type: ignore[arg-type]
        lambda: retry(on=ValueError, retry_if=True),  # type: ignore[arg-type]
        lambda: retry(on=ValueError, on_exhausted="explode"),  # type: ignore[arg-type]
        lambda: timeout(0),
        lambda: idempotent(ttl=0),
        lambda: exponential(10, max=5),
        lambda: linear(1, jitter="half"),  # type: ignore[arg-type]
        lambda: exponential(1, jitter="half"),  # type: ignore[arg-type]
        lambda: dead_letter("order.*"),
        lambda: dead_letter(5),  # type: ignore[arg-type]
        lambda: Bus("memory://", name=""),
        lambda: Bus("memory://", declare="maybe"),  # type: ignore[arg-type]
        lambda: Queue("orders", ordering="size"),  # type: ignore[arg-type]
        lambda: Queue("orders", partitions=0),
        lambda: Topic("a.b", ordering="x"),  # type: ignore[arg-type]
        lambda: Bus("memory://").pull(),
    ],
)
def test_bad_arguments_are_refused_at_once(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        make()


@pytest.mark.parametrize("bad", [-1, -0.001, True, "5", None, float("nan"), float("inf"), 10**400, timedelta(-1)])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (constant, "constant"),
        (exponential, r"exponential\(first=…\)"),
        (lambda bad: exponential(max=bad), r"exponential\(max=…\)"),
        (lambda bad: exponential(factor=bad), r"exponential\(factor=…\)"),
        (linear, r"linear\(first=…\)"),
        (lambda bad: linear(step=bad), r"linear\(step=…\)"),
        (lambda bad: retry(on=ValueError, max_elapsed=bad), r"retry\(max_elapsed=…\)"),
        (lambda bad: Retry(after=bad), r"Retry\(after=…\)"),
        (timeout, r"timeout\(…\)"),
        (lambda bad: idempotent(ttl=bad), r"idempotent\(ttl=…\)"),
        (lambda bad: Bus("memory://", grace=bad), r"Bus\(grace=…\)"),
        (lambda bad: Bus("memory://").producer("orders", delay=bad), r"producer\(delay=…\)"),
    ],
)
def test_a_duration_is_a_finite_number_that_is_not_negative(
    make: Callable[[Any], object], name: str, bad: object
) -> None:
    if bad is None and name in (r"linear\(step=…\)", r"retry\(max_elapsed=…\)", r"Retry\(after=…\)"):
        make(None)
        return
    with pytest.raises(ConfigurationError, match=name) as caught:
        make(bad)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("on", [5, "ValueError", ValueError("one"), (), (ValueError, int), [ValueError]])
def test_what_is_retried_on_are_exception_classes(on: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"retry\(on=.*exception class"):
        retry(on=on)


@pytest.mark.parametrize("attempts", [0, -1, 1.5, float("nan"), True, "4", MAX_ATTEMPT + 1])
def test_attempts_are_a_whole_number(attempts: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"retry\(attempts=.* from 1, the first run included, to 1,000,000"):
        retry(on=ValueError, attempts=attempts)


async def test_a_backoff_above_the_brokers_longest_delay_is_refused_and_that_is_named() -> None:
    bus = Bus("memory://?delay_max=100")

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=9, backoff=exponential(1, max=3600))
    async def handle(order: Order) -> None: ...

    said = await refused(bus)
    assert "retries after up to 128 s" in said
    assert "delays end at 100 s" in said


async def test_a_backoff_of_the_users_that_fails_is_refused_with_the_handlers_place() -> None:
    bus = Bus("memory://")

    def mine(failures: int) -> float:
        return 2.0 - failures

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=4, backoff=mine)
    async def handle(order: Order) -> None: ...

    said = await refused(bus)
    assert here(handle) in said
    assert "mine after 3 failures: -1.0 is no duration" in said


@pytest.mark.parametrize("option", ["concurrency", "prefetch"])
def test_zero_concurrency_is_refused(option: str) -> None:
    async def handle(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match=f"{option}=0"):
        Bus("memory://").consumer("orders", **{option: 0})(handle)  # type: ignore[arg-type]

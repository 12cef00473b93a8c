"""Retry: when it ends, bad attributes, what a handler asks for, and functions that fail."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from unibus import (
    Bus,
    Message,
    Queue,
    Retry,
    constant,
    retry,
)
from unibus import attributes as names
from unibus.driver import Outbound
from unibus.testing import App, app


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

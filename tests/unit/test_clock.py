from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from unibus.clock import Clock, Timer
from unibus.testing.clock import MovableClock


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


def test_it_starts_at_a_fixed_time(clock: MovableClock) -> None:
    as_protocol: Clock = clock
    assert datetime.fromtimestamp(as_protocol.now(), UTC) == datetime(2026, 1, 1, tzinfo=UTC)
    assert as_protocol.monotonic() == 1000.0


async def test_both_times_move_together(clock: MovableClock) -> None:
    start = clock.now()
    await clock.advance(90)
    assert (clock.now() - start, clock.monotonic()) == (90, 1090.0)
    with pytest.raises(ValueError, match="back"):
        await clock.advance(-1)


async def test_timers_fire_in_order_each_at_its_time_and_none_early(clock: MovableClock) -> None:
    fired: list[tuple[str, float]] = []
    for name, seconds in (("c", 3.0), ("a", 1.0), ("b", 1.0), ("late", 5.0)):
        clock.call_later(seconds, lambda name=name: fired.append((name, clock.monotonic())))  # type: ignore[misc]
    await clock.advance(0.999)
    assert fired == []
    await clock.advance(3)
    assert fired == [("a", 1001.0), ("b", 1001.0), ("c", 1003.0)]
    assert clock.monotonic() == pytest.approx(1003.999)
    assert clock.next_due() == 1005.0


async def test_a_timer_without_delay_or_in_the_past_fires_at_the_next_move(clock: MovableClock) -> None:
    fired: list[float] = []
    clock.call_later(0, lambda: fired.append(clock.monotonic()))
    clock.call_later(-5, lambda: fired.append(clock.monotonic()))
    await asyncio.sleep(0)
    assert fired == []
    await clock.advance(0)
    assert fired == [1000.0, 1000.0]


async def test_cancelled_timers_are_dropped(clock: MovableClock) -> None:
    fired: list[int] = []
    timers: list[Timer] = []

    def cancel_all() -> None:
        for timer in timers:
            timer.cancel()

    first = clock.call_later(1, lambda: fired.append(1))
    clock.call_later(2, cancel_all)
    timers.append(clock.call_later(2, lambda: fired.append(2)))
    first.cancel()
    assert clock.next_due() == 1002.0
    await clock.advance(5)
    assert fired == []
    assert clock.next_due() is None


async def test_what_is_due_meanwhile_fires_too(clock: MovableClock) -> None:
    beats: list[float] = []

    async def beat() -> None:
        while True:
            await clock.sleep(10)
            beats.append(clock.monotonic())

    task = asyncio.create_task(beat())
    await clock.advance(3600)
    assert beats == [1000.0 + 10 * n for n in range(1, 361)]
    task.cancel()
    await clock.quiet()
    assert clock.next_due() is None


async def test_advance_to_next(clock: MovableClock) -> None:
    fired: list[int] = []
    assert await clock.advance_to_next() is False
    clock.call_later(7, lambda: fired.append(7))
    clock.call_later(9, lambda: fired.append(9))
    assert await clock.advance_to_next() is True
    assert (fired, clock.monotonic()) == ([7], 1007.0)
    assert await clock.advance_to_next() is True
    assert await clock.advance_to_next() is False
    assert (fired, clock.monotonic()) == ([7, 9], 1009.0)


async def test_sleeping_for_no_time_only_yields(clock: MovableClock) -> None:
    await clock.sleep(0)
    await clock.sleep(-1)
    assert clock.next_due() is None


async def test_an_error_in_a_timer_goes_to_the_loop(clock: MovableClock) -> None:
    seen: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
    clock.call_later(1, lambda: 1 / 0)
    await clock.advance(2)
    assert [type(error) for error in seen] == [ZeroDivisionError]
    assert clock.monotonic() == 1002.0

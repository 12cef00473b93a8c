from __future__ import annotations

from collections.abc import Callable

from unibus.driver import SystemClock, Timer
from unibus.memory.alarm import NEVER, Alarm
from unibus.testing.clock import MovableClock


class _Hasty(MovableClock):
    """Rings a little early, as an event loop may."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:  # type: ignore[override]
        return super().call_later(seconds - 0.25 if seconds > 0.25 else seconds, callback)


async def test_it_never_rings_early() -> None:
    clock = _Hasty()
    rung: list[float] = []
    alarm = Alarm(clock, lambda: rung.append(clock.monotonic()))
    alarm.set(1010.0)
    await clock.advance(9.75)
    assert rung == []
    assert alarm.due == 1010.0
    await clock.advance(0.25)
    assert rung == [1010.0]
    assert alarm.due == NEVER


async def test_the_earliest_time_wins_and_set_replaces() -> None:
    clock = MovableClock()
    rung: list[float] = []
    alarm = Alarm(clock, lambda: rung.append(clock.monotonic()))
    alarm.by(1010.0)
    alarm.by(1020.0)
    alarm.by(1005.0)
    assert clock.next_due() == 1005.0
    alarm.set(1030.0)
    await clock.advance(29)
    assert rung == []
    alarm.stop()
    assert clock.next_due() is None
    await clock.advance(29)
    assert rung == []


async def test_it_runs_on_the_real_clock() -> None:
    clock = SystemClock()
    rung: list[float] = []
    alarm = Alarm(clock, lambda: rung.append(clock.monotonic()))
    due = clock.monotonic() + 0.01
    alarm.set(due)
    await clock.sleep(0.02)
    assert len(rung) == 1
    assert rung[0] >= due

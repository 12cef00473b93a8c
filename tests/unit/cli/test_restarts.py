"""How long a worker that died waits, and when it may not start again. Time is a number here."""

from __future__ import annotations

from unibus.cli.restarts import RestartPolicy, Restarts


def test_pauses_double_up_to_the_longest() -> None:
    restarts = Restarts(RestartPolicy(first=0.5, longest=3.0, budget=10))
    assert [restarts.pause(now) for now in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_the_budget_ends_it() -> None:
    restarts = Restarts(RestartPolicy(budget=3))
    assert [restarts.pause(0.0) is None for _ in range(5)] == [False, False, False, True, True]


def test_what_is_older_than_the_window_is_forgotten() -> None:
    restarts = Restarts(RestartPolicy(first=1.0, budget=2, window=60.0))
    assert restarts.pause(0.0) == 1.0
    assert restarts.pause(30.0) == 2.0
    assert restarts.pause(60.0) is None
    assert restarts.pause(61.0) == 2.0  # the first has left the window, the second has not
    assert restarts.pause(500.0) == 1.0

"""The arithmetic of delays, and where a message goes by it: played through without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unibus_rabbitmq import ladder


def walk(delay: float, destination: str) -> tuple[float, list[str]]:
    """How long a message is held in all, and by which queues, until it is at the outlet."""
    exchange, key = ladder.entrance(delay, destination)
    times = {queue.name: queue.arguments["x-message-ttl"] for queue in ladder.queues()}
    onwards = {queue.name: queue.arguments["x-dead-letter-exchange"] for queue in ladder.queues()}
    total, visited = 0.0, list[str]()
    while exchange != ladder.OUTLET:
        (binding,) = [b for b in ladder.bindings() if b.source == exchange and fits(b.key, key)]
        if binding.is_exchange:
            exchange = binding.destination
        else:
            visited.append(binding.destination)
            total += int(times[binding.destination]) / 1000
            exchange = str(onwards[binding.destination])
    assert fits(ladder.outlet_key(destination), key)
    return total, visited


def fits(pattern: str, key: str) -> bool:
    """A topic exchange's rule, for what the ladder uses of it."""
    wanted, words = pattern.split("."), key.split(".")
    if wanted[-1] == "#":
        wanted, words = wanted[:-1], words[: len(wanted) - 1]
    return len(wanted) == len(words) and all(a in ("*", b) for a, b in zip(wanted, words, strict=True))


@given(st.floats(0.001, ladder.LONGEST))
def test_never_early_and_late_by_less_than_a_step(delay: float) -> None:
    held, visited = walk(delay, "orders.new")
    assert delay - 1e-6 <= held < delay + ladder.STEP + 1e-6
    assert visited == sorted(visited, reverse=True)
    assert len(visited) == len(set(visited)), "in one queue twice: the broker would take it for a loop"


@pytest.mark.parametrize(
    ("delay", "steps"),
    [(0.05, 1), (0.1, 1), (0.10001, 2), (0.3, 3), (1.0, 10), (60.0, 600), (ladder.LONGEST, 2**20 - 1)],
)
def test_whole_steps_are_not_rounded_up(delay: float, steps: int) -> None:
    assert ladder.steps(delay) == steps


def test_the_longest_is_a_day_and_five_hours() -> None:
    assert round(ladder.LONGEST / 3600) == 29
    assert len(walk(ladder.LONGEST, "q")[1]) == ladder.LEVELS


def test_levels_are_safe() -> None:
    for queue in ladder.queues():
        assert queue.arguments["x-queue-type"] == "quorum"
        assert queue.arguments["x-dead-letter-strategy"] == "at-least-once"
        assert queue.arguments["x-overflow"] == "reject-publish"
    assert all(arguments == {"alternate-exchange": ladder.UNDELIVERABLE} for _, arguments in ladder.exchanges())


def test_one_destination_is_not_taken_for_another() -> None:
    _, key = ladder.entrance(1.0, "orders.new")
    assert fits(ladder.outlet_key("orders.new"), key)
    assert not fits(ladder.outlet_key("new"), key)
    assert not fits(ladder.outlet_key("orders"), key)

"""Helpers of the cases about order: numbers with one of seven keys each, and a broker that is unreliable."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from itertools import pairwise

from unibus.driver import Queue
from unibus.errors import NotSent, OutcomeUnknown, Rejected
from unibus.testing.faults import Call, Proceed, rejecting, unanswered
from unibus.testing.harness import Harness

KEYS = [f"key-{number}" for number in range(7)]


def ordered_queue(harness: Harness) -> Queue:
    return Queue(harness.name("ordered"), ordering="key")


def by_key(numbers: list[int]) -> dict[int, list[int]]:
    """Numbers are sent with the key `number % 7`."""
    found: dict[int, list[int]] = defaultdict(list)
    for number in numbers:
        found[number % 7].append(number)
    return found


def assert_in_order(numbers: list[int]) -> None:
    for key, ones in by_key(numbers).items():
        inverted = [(a, b) for a, b in pairwise(ones) if a > b]
        assert not inverted, f"key {key}: {inverted[:5]}"


def key_of(number: int) -> str:
    return KEYS[number % 7]


class Unreliable:
    """Lets some calls take their time, refuses some messages of some, and does not answer for others."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def __call__(self, call: Call, proceed: Proceed, /) -> None:
        for _ in range(self._chance.randrange(6)):
            await asyncio.sleep(0)
        unlucky = {id(message) for message in call.items if self._chance.random() < 0.2}
        fault = self._chance.choice([None, None, rejecting, unanswered])
        if fault is None:
            await proceed(call.items)
        else:
            await fault(lambda message: id(message) in unlucky)(call, proceed)


def assert_told_truly(outcomes: dict[int, object], stored: list[int]) -> None:
    confirmed = {number for number, outcome in outcomes.items() if isinstance(outcome, str)}
    unknown = {number for number, outcome in outcomes.items() if isinstance(outcome, OutcomeUnknown)}
    others = {n for n, o in outcomes.items() if not isinstance(o, (str, OutcomeUnknown, Rejected, NotSent))}
    assert not others, (
        f"holes are named by Rejected, NotSent or OutcomeUnknown, not by {[outcomes[n] for n in others][:3]}"
    )
    assert confirmed <= set(stored), f"confirmed and not stored: {sorted(confirmed - set(stored))[:10]}"
    assert set(stored) <= confirmed | unknown, (
        f"stored though not sent: {sorted(set(stored) - confirmed - unknown)[:10]}"
    )
    assert len(stored) == len(set(stored)), "stored twice"
    assert_in_order(stored)

"""Delays: a ladder of queues whose messages expire, one for each binary digit of the delay.

A delay is a whole number of steps, rounded up, so that it is never cut short. Its digits stand in
the routing key, the highest first, before the name of the destination. A message waits in the queue
of each digit that is 1, and passes by those that are 0: within a queue all wait equally long, so
that none holds up another. The queues are quorum queues that move what has expired only once the
next one has confirmed it. What no longer has a destination ends in a queue of its own, since it
would stand in the way of all others for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

Arguments: TypeAlias = dict[str, str | int | bool]
"""Of a queue or an exchange."""

STEP = 0.1
"""Seconds of the lowest digit."""
LEVELS = 20
LONGEST = (2**LEVELS - 1) * STEP
"""Seconds: 29 hours."""
PRECISION = 0.25
"""Seconds: rounding up to a step, and the moves from queue to queue."""

OUTLET = "unibus.delay.out"
"""The exchange below the lowest level; every destination is bound to it."""
UNDELIVERABLE = "unibus.undeliverable"
"""The exchange and the queue of what was delayed for a queue that is gone."""
MAX_NAME = 255 - 2 * LEVELS
"""Bytes of a destination's name that leave room for the digits."""


class Queue(NamedTuple):
    name: str
    arguments: Arguments


class Binding(NamedTuple):
    """destination is bound to source. is_exchange: the destination is one."""

    destination: str
    is_exchange: bool
    source: str
    key: str


def level(digit: int) -> str:
    """The name of a level's exchange and queue; digit 0 is the lowest."""
    return f"unibus.delay.{digit:02d}"


def below(digit: int) -> str:
    """The exchange to which a level hands on."""
    return level(digit - 1) if digit else OUTLET


def steps(delay: float) -> int:
    """Rounded up: never early. The tolerance is for what is a whole number but for its last bits."""
    return max(1, math.ceil(delay / STEP - 1e-6))


def entrance(delay: float, destination: str) -> tuple[str, str]:
    """The exchange to publish to, and the routing key. delay: seconds, above 0 and up to LONGEST."""
    count = steps(delay)
    digits = f"{count:0{LEVELS}b}"
    return level(count.bit_length() - 1), ".".join((*digits, destination))


def outlet_key(destination: str) -> str:
    """The key with which a destination is bound to the outlet: whatever the digits."""
    return "*." * LEVELS + destination


def exchanges() -> Iterator[tuple[str, Arguments]]:
    """Topic exchanges with their arguments, each after those that it refers to."""
    yield OUTLET, {"alternate-exchange": UNDELIVERABLE}
    for digit in range(LEVELS):
        yield level(digit), {"alternate-exchange": UNDELIVERABLE}


def queues() -> Iterator[Queue]:
    """All are durable quorum queues."""
    for digit in range(LEVELS):
        yield Queue(
            level(digit),
            {
                "x-queue-type": "quorum",
                "x-message-ttl": round(STEP * 1000) << digit,
                "x-dead-letter-exchange": below(digit),
                "x-dead-letter-strategy": "at-least-once",
                "x-overflow": "reject-publish",
            },
        )


def bindings() -> Iterator[Binding]:
    """A 1 goes into the level's queue, a 0 to the level below."""
    for digit in range(LEVELS):
        before = "*." * (LEVELS - 1 - digit)
        yield Binding(level(digit), False, level(digit), f"{before}1.#")
        yield Binding(below(digit), True, level(digit), f"{before}0.#")

"""The messages of a run: ids that are unique in it, and payloads that show whose they are."""

from __future__ import annotations

import hashlib
import random

MARK = "fault-test-payload"
"""Stands in every payload, and in nothing else that a broker sends."""


def message_id(run: str, number: int) -> str:
    return f"{run}-{number:06d}"


def payload(id: str, size: int = 1024) -> str:  # noqa: A002
    """Follows from the id, so that a handler can tell whether it got the right one."""
    filling = hashlib.sha256(id.encode()).hexdigest() * (size // 64 + 1)
    return f"{MARK} {id} {filling}"[:size]


def chance(seed: int, *words: object) -> random.Random:
    """Its own chances for each purpose, the same in every process that has the seed."""
    return random.Random(":".join(map(str, (seed, *words))))


def delay_of(seed: int, id: str, what: str, least: float, most: float) -> float:  # noqa: A002
    """Seconds, by the message."""
    return round(chance(seed, what, id).uniform(least, most), 1)

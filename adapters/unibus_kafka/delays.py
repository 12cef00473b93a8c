"""Tiers of delay: topics whose records all wait equally long, so that the first to come is the first to be due.

A record goes to the largest tier that is not longer than what remains, waits exactly that, and goes on. What remains
below the smallest tier is waited for by the forwarder that has it in hand.
"""

from __future__ import annotations

import re

TIERS = (1, 10, 60, 600, 3600)
"""Seconds."""
LONGEST = 7 * 86400.0
"""Seconds."""
PRECISION = 0.5
"""Seconds."""
RETENTION = 3600 + 30 * 86400
"""Seconds for which a tier keeps records: as long as forwarders may be away for."""
PARTITIONS = 2

HELD = 1000
"""Records of one partition of a tier that are waited for in memory: those behind them are due later."""

PREFIX = "unibus.delay."
UNDELIVERABLE = "unibus.undeliverable"
_TIER_TOPIC = re.compile(rf"{re.escape(PREFIX)}(\d{{1,9}})\.(.+)")


def topic_of(tier: int, target: str) -> str:
    return f"{PREFIX}{tier}.{target}"


def topics_of(target: str) -> list[str]:
    return [topic_of(tier, target) for tier in TIERS]


def group_of(target: str) -> str:
    """The consumer group of the forwarders for one target."""
    return f"{PREFIX}{target}"


def pattern_of(target: str) -> str:
    return rf"^{re.escape(PREFIX)}\d+\.{re.escape(target)}$"


def parsed(topic: str) -> tuple[int, str] | None:
    """The tier and the target, if it is a topic of delays."""
    found = _TIER_TOPIC.fullmatch(topic)
    return (int(found[1]), found[2]) if found else None


def tier_for(remaining: float) -> int:
    """The largest that is not longer; the smallest for anything below."""
    return next((tier for tier in reversed(TIERS) if tier <= remaining), TIERS[0])


def due_of(text: bytes | None, stored: float, tier: int) -> float:
    """When a record is due, in seconds since 1970. It comes from outside: nonsense means its tier alone."""
    if text is None or not text.isdigit() or len(text) > 16:
        return stored + tier
    return min(int(text) / 1000, stored + LONGEST + tier)


def next_look(due: float, stored: float, tier: int) -> float:
    """When its time in this tier is over."""
    return min(due, stored + tier)

"""What a consumer counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ConsumerStats:
    """Counts since the consumer started. All of them are messages unless they say otherwise.

    handled: handler runs that succeeded. skipped: duplicates that `idempotent` passed over.
    rate_limited: made to wait for their turn by `rate_limit`.
    retried: failed attempts that will be run again. over_budget: those of them that wait longer,
    since retries are over their budget. dead_lettered: confirmed in the dead letters.
    dropped: settled without a record. given_back: returned to the broker unhandled. lost: taken
    away while we held them. settlements_lost: handled, but the broker will deliver them again.
    send_failures: re-sends or dead letters that failed and are tried again. unmatched: not under
    the group's patterns: a dead letter where the broker routes by them exactly, else acked.
    suspects: re-sent to be handled alone. gaps: events that say that messages may have been missed.
    lane_restarts: lanes that ended by themselves.
    """

    received: int = 0
    handled: int = 0
    skipped: int = 0
    rate_limited: int = 0
    retried: int = 0
    over_budget: int = 0
    dead_lettered: int = 0
    dropped: int = 0
    given_back: int = 0
    lost: int = 0
    settlements_lost: int = 0
    send_failures: int = 0
    unmatched: int = 0
    suspects: int = 0
    gaps: int = 0
    lane_restarts: int = 0

"""The attributes that travel with a message: CloudEvents 1.0 names, and our own beginning with `unibus`.

They come from outside, so they are parsed strictly and clamped; nothing here trusts a value.
`id` and `partitionkey` are not in the map: they are fields of Outbound and Delivery.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

SOURCE = "source"
TYPE = "type"
TIME = "time"
CONTENT_TYPE = "datacontenttype"
VERSION = "schemaversion"
CORRELATION_ID = "correlationid"
CAUSATION_ID = "causationid"
TRACE_PARENT = "traceparent"

ATTEMPT = "unibusattempt"
"""The number of this attempt, from 2 on: one more than the failures that we recorded."""
FIRST_FAILURE = "unibusfirst"
LAST_ERROR = "unibuslasterror"
ALONE = "unibusalone"
"""Set on a suspect: it may have taken its process down, and is handled with nothing beside it."""

REPLAYS = "unibusreplays"
"""How often it was replayed from the dead letters; kept when it becomes one again."""
RUN = "unibusrun"
"""The run of the dead-letter tools that sent it last, so that the run knows it again."""

OWN_PREFIX = "unibus"
MAX_ATTEMPT = 1_000_000

JSON = "application/json"
BYTES = "application/octet-stream"


def parse_attempt(attributes: Mapping[str, str]) -> int:
    """The attempt that the attributes claim, 1 for none or nonsense, at most MAX_ATTEMPT."""
    return max(_count(attributes.get(ATTEMPT)), 1)


def parse_replays(attributes: Mapping[str, str]) -> int:
    """How often the attributes claim that it was replayed, 0 for none or nonsense, at most MAX_ATTEMPT."""
    return _count(attributes.get(REPLAYS))


def _count(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit()):
        return 0
    return min(int(text[:8]), MAX_ATTEMPT)


def parse_time(text: str | None) -> datetime | None:
    """An RFC 3339 time in UTC, or None for none or nonsense."""
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):  # the first and the last hours of the calendar have no time in UTC
        return None


def parse_first_failure(attributes: Mapping[str, str], now: float) -> datetime | None:
    """When the message failed first, as the attributes claim; None for none, nonsense, or a time to come.

    now: seconds since 1970.
    """
    time = parse_time(attributes.get(FIRST_FAILURE))
    return None if time is None or time.timestamp() > now else time


def without_own(attributes: Mapping[str, str]) -> dict[str, str]:
    """The attributes less our bookkeeping, as for a message that starts afresh."""
    return {name: value for name, value in attributes.items() if not name.startswith(OWN_PREFIX)}

"""Errors of Redis and its client, in our words."""

from __future__ import annotations

from redis import exceptions as foreign

from unibus.errors import (
    AccessDenied,
    ConnectionLost,
    DestinationNotFound,
    DriverError,
    NotSent,
    OutcomeUnknown,
    Rejected,
    SendError,
    Throttled,
    TopologyMismatch,
)

# The first that fits counts: subclasses stand before their parents.
_ERRORS: tuple[tuple[type[Exception], type[DriverError]], ...] = (
    (foreign.AuthenticationError, AccessDenied),
    (foreign.AuthorizationError, AccessDenied),
    (foreign.NoPermissionError, AccessDenied),
    (foreign.BusyLoadingError, ConnectionLost),
    (foreign.ReadOnlyError, ConnectionLost),
    (foreign.ConnectionError, ConnectionLost),
    (foreign.TimeoutError, ConnectionLost),
    (OSError, ConnectionLost),
)
_CODES: tuple[tuple[str, type[DriverError]], ...] = (
    ("WRONGPASS", AccessDenied),
    ("NOAUTH", AccessDenied),
    ("NOPERM", AccessDenied),
    ("NOGROUP", DestinationNotFound),
    ("WRONGTYPE", TopologyMismatch),
    ("OOM", Throttled),
    ("MISCONF", Throttled),
)
FOREIGN = (foreign.RedisError, OSError)


def translate(error: Exception, doing: str) -> DriverError:
    for theirs, ours in _ERRORS:
        if isinstance(error, theirs):
            return ours(f"{doing}: {error}")
    for code, ours in _CODES:
        if code in str(error):
            return ours(f"{doing}: {error}")
    return DriverError(f"{doing}: {error}")


def of_send(error: Exception, *, left: bool) -> SendError | DriverError:
    """What becomes of a message: refused, never left, or unknown. left: whether the call was written."""
    ours = translate(error, "sending")
    made: SendError | DriverError
    if isinstance(ours, ConnectionLost):
        made = OutcomeUnknown(f"no answer: {error}") if left else NotSent(f"no connection: {error}")
    elif isinstance(ours, DestinationNotFound):
        made = ours
    else:
        made = Rejected(str(ours))
    made.__cause__ = error
    return made

"""Errors of databases and their drivers, in our words."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from unibus.errors import AccessDenied, ConnectionLost, DestinationNotFound, DriverError, Throttled

FOREIGN = (SQLAlchemyError, OSError)
"""What a call raises. TimeoutError is an OSError."""

_STATES: dict[str, tuple[type[DriverError], str]] = {
    "28": (AccessDenied, "check user name and password in the URL"),
    "42501": (AccessDenied, "the user lacks a right on the table unibus_idempotency or its sequence"),
    "3D000": (DestinationNotFound, "create the database, or name another one in the URL"),
    "42P01": (DestinationNotFound, "the table is gone; the store creates it when it is opened"),
    "08": (ConnectionLost, "check host and port"),
    "40": (ConnectionLost, "two transactions were in each other's way"),
    "53": (Throttled, "the server is short of memory, disk or connections"),
    "55P03": (ConnectionLost, "another transaction holds the row"),
    "57P": (ConnectionLost, "the server is being stopped or started"),
    "25006": (ConnectionLost, "this server only reads: name the primary in the URL"),
}
"""By the beginning of the SQLSTATE: our error, and what to do."""

_SQLITE: dict[int, tuple[type[DriverError], str]] = {
    sqlite3.SQLITE_BUSY: (ConnectionLost, "another process is writing to it"),
    sqlite3.SQLITE_LOCKED: (ConnectionLost, "another connection is writing to it"),
    sqlite3.SQLITE_FULL: (Throttled, "the disk is full"),
    sqlite3.SQLITE_IOERR: (Throttled, "the disk does not answer"),
    sqlite3.SQLITE_CANTOPEN: (DestinationNotFound, "check that its folder exists"),
    sqlite3.SQLITE_READONLY: (AccessDenied, "the file cannot be written to"),
}


def translate(error: BaseException, doing: str) -> DriverError:
    """`retryable` where it was the database's fault and not the statement's: the same may succeed later."""
    cause: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig
    words = f"{doing}: {str(cause) or type(cause).__name__}"
    ours, advice = _known(cause)
    if ours is not None:
        return ours(f"{words}; {advice}")
    if not isinstance(error, DBAPIError) or error.connection_invalidated or _is_unsaid(error):
        return ConnectionLost(words)
    return DriverError(words)


def _is_unsaid(error: DBAPIError) -> bool:
    """No server has said it, so there is none."""
    told = getattr(error.orig, "sqlstate", None) or hasattr(error.orig, "sqlite_errorcode")
    return isinstance(error, OperationalError) and not told


def _known(cause: BaseException) -> tuple[type[DriverError] | None, str]:
    state = getattr(cause, "sqlstate", None) or ""
    for beginning, found in _STATES.items():
        if state.startswith(beginning):
            return found
    code = getattr(cause, "sqlite_errorcode", None)
    return _SQLITE.get(code & 0xFF, (None, "")) if isinstance(code, int) else (None, "")

"""What goes wrong in the client library or at the broker, as errors of unibus."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiormq import exceptions as foreign

from unibus.errors import (
    AccessDenied,
    ConnectionLost,
    DestinationNotFound,
    DriverError,
    TopologyMismatch,
    UnibusError,
)  # fmt: skip

RPC_TIMEOUT = 10.0
"""Seconds within which the broker answers anything but a publish."""

ERRORS: tuple[tuple[type[BaseException], type[DriverError], str], ...] = (
    (foreign.ChannelAccessRefused, AccessDenied, "give the user the right, or have somebody else create it"),
    (foreign.ProbableAuthenticationError, AccessDenied, "check user name and password"),
    (foreign.AuthenticationError, AccessDenied, "the server offers no way to log in that we know"),
    (foreign.ChannelNotFoundEntity, DestinationNotFound, "create it, start its consumer first, or check the name"),
    (foreign.ChannelPreconditionFailed, TopologyMismatch, "use what exists, or another name"),
    (foreign.ChannelLockedResource, TopologyMismatch, "it belongs to another connection alone; use another name"),
    (foreign.ConnectionNotAllowed, AccessDenied, "check the virtual host and the user's rights on it"),
)
"""Foreign, ours, and what to do. All else is a lost connection."""

_DIFFERS = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for (?P<kind>\w+) '(?P<name>[^']+)'.*?: "
    r"received (?P<wanted>.+) but current is (?P<existing>.+)"
)
_VALUE = re.compile(r"(?:the value )?'(?P<value>[^']*)'")
_UNAVAILABLE = re.compile(r"down or inaccessible|timeout|minority|unavailable", re.IGNORECASE)


def translated(error: BaseException, doing: str) -> UnibusError:
    """Our error for the library's. doing: what was tried, as in "declaring queue 'orders'"."""
    words = _words(error)
    for theirs, ours, advice in ERRORS:
        if isinstance(error, theirs):
            if ours is TopologyMismatch and (mismatch := difference(words)) is not None:
                return TopologyMismatch(f"{mismatch}; {advice}")
            if ours is DestinationNotFound and _UNAVAILABLE.search(words):
                return ConnectionLost(f"{doing}: {words}")
            return ours(f"{doing}: {words}; {advice}")
    if isinstance(error, TimeoutError):
        return ConnectionLost(f"{doing}: the broker did not answer within {RPC_TIMEOUT:g} s")
    return ConnectionLost(f"{doing}: the connection was lost ({type(error).__name__}: {words or 'no reason given'})")


def difference(words: str) -> str | None:
    """The broker's words on differing arguments, put as one sentence."""
    found = _DIFFERS.search(words)
    if found is None:
        return None
    argument, name = found["argument"], found["name"]
    existing, wanted = _value(found["existing"]), _value(found["wanted"])
    return f"{found['kind']} {name!r} exists with {argument}={existing}, not {argument}={wanted}"


def differing_argument(error: TopologyMismatch) -> str:
    """The name of the argument in an error made from `difference`, or nothing."""
    found = re.search(r"exists with ([^=]+)=", str(error))
    return found[1] if found else ""


def _value(text: str) -> str:
    found = _VALUE.search(text)
    return repr(found["value"]) if found else text.strip()


def _words(error: BaseException) -> str:
    return " ".join(str(argument) for argument in error.args if argument is not None)


@asynccontextmanager
async def told(doing: str, timeout: float = RPC_TIMEOUT) -> AsyncIterator[None]:
    """Within it the library is called: its errors come out as ours, and it may not take for ever.

    A CancelledError that nobody asked for is how the library tells of a lost connection.
    """
    try:
        async with asyncio.timeout(timeout):
            yield
    except UnibusError:
        raise
    except asyncio.CancelledError as error:
        if asked_to_end():
            raise
        raise translated(error, doing) from error
    except Exception as error:
        raise translated(error, doing) from error


def asked_to_end() -> bool:
    """Whether somebody has asked the current task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

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

FOREIGN = (foreign.RedisError, OSError)
"""What the client raises."""

_CODES: dict[str, tuple[type[DriverError], str]] = {
    "NOAUTH": (AccessDenied, "the server wants a password: redis://user:password@host"),
    "WRONGPASS": (AccessDenied, "check user name and password in the URL"),
    "NOPERM": (AccessDenied, "give the user this command and these keys, by ACL SETUSER"),
    "NOGROUP": (DestinationNotFound, "start its consumer once, which creates it"),
    "UNBLOCKED": (DestinationNotFound, "somebody deleted it; its consumer creates it anew"),
    "WRONGTYPE": (TopologyMismatch, "the key holds something else than a stream; use another name, or delete it"),
    "OOM": (Throttled, "the server is at its maxmemory; give it more, or let consumers catch up"),
    "MISCONF": (Throttled, "the server cannot write to its disk; look at its log"),
    "NOREPLICAS": (Throttled, "too few replicas are connected for min-replicas-to-write"),
    "READONLY": (ConnectionLost, "this is a replica; name the master in the URL, or use redis+sentinel://"),
    "MASTERDOWN": (ConnectionLost, "this is a replica without its master"),
    "LOADING": (ConnectionLost, "the server is reading its data from disk; it will serve when that is done"),
    "CLUSTERDOWN": (ConnectionLost, "some slots of the cluster are served by nobody"),
    "TRYAGAIN": (ConnectionLost, "slots of the cluster are being moved"),
    "MOVED": (ConnectionLost, "this is a node of a cluster; use redis+cluster://"),
    "ASK": (ConnectionLost, "this is a node of a cluster; use redis+cluster://"),
    "CROSSSLOT": (TopologyMismatch, "the keys of one call lie in several slots; check physical names with braces"),
}
"""By the first word of the server's answer: our error, and what to do."""

_REFUSALS = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
PASSING = frozenset({"READONLY", "MASTERDOWN", "LOADING", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK"})
"""Answers of a server that has done nothing, while it or another one soon will."""


class Unreached(Exception):
    """The request has not left, or was turned away by a server that did nothing. `reason` says why."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


def code_of(error: BaseException) -> str:
    """The first word of what the server has answered, "" if it was no answer of the server."""
    if isinstance(error, Unreached):
        return code_of(error.reason)
    if not isinstance(error, foreign.RedisError):
        return ""
    text = str(error)
    if "ACL failure" in text or "can't run this command" in text:  # said by a script, in varying words
        return "NOPERM"
    if isinstance(error, foreign.NoPermissionError):
        return "NOPERM"
    if isinstance(error, (foreign.AuthenticationError, foreign.AuthorizationError)):
        return error.status_code if error.status_code in _REFUSALS else "WRONGPASS"
    return error.status_code or (text.partition(" ")[0] if isinstance(error, foreign.ResponseError) else "")


def is_refusal(error: BaseException) -> bool:
    """Whether trying again soon would only be refused again."""
    return code_of(error) in _REFUSALS


def is_answer(error: foreign.RedisError) -> bool:
    """Whether the server has said it, so that the connection is sound."""
    return isinstance(error, foreign.ResponseError) or error.status_code is not None


def translate(error: Exception, doing: str) -> DriverError:
    reason = error.reason if isinstance(error, Unreached) else error
    code = code_of(reason)
    known = _CODES.get(code)
    words = str(reason) or type(reason).__name__
    if code and not words.startswith(code):
        words = f"{code} {words}"
    if known is not None:
        ours, advice = known
        return ours(f"{doing}: {words}; {advice}")
    if isinstance(error, Unreached):
        return ConnectionLost(f"{doing}: {words}; check host and port, and whether that port speaks TLS")
    if isinstance(reason, (foreign.ConnectionError, foreign.TimeoutError, OSError)):
        return ConnectionLost(f"{doing}: {words}")
    return DriverError(f"{doing}: {words}")


def of_send(error: Exception) -> SendError | DriverError:
    """What becomes of a message: refused, never left, or unknown."""
    ours = translate(error, "sending")
    made: SendError | DriverError
    if isinstance(error, Unreached):
        made = NotSent(f"{ours}; it did not leave, send it again")
    elif isinstance(ours, DestinationNotFound):
        made = ours
    elif isinstance(ours, ConnectionLost):
        made = OutcomeUnknown(f"{ours}: it may be stored")
    else:
        made = Rejected(str(ours))
    made.__cause__ = error
    return made

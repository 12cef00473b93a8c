"""Errors of Kafka and its client, in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import errors as foreign

from unibus.errors import (
    AccessDenied,
    ConnectionLost,
    DestinationNotFound,
    DriverError,
    OutcomeUnknown,
    Rejected,
    TopologyMismatch,
)

FOREIGN = (foreign.KafkaError, OSError, TimeoutError)

# The first that fits counts: subclasses stand before their parents.
_ERRORS: tuple[tuple[type[Exception], type[DriverError]], ...] = (
    (foreign.UnknownTopicOrPartitionError, DestinationNotFound),
    (foreign.TopicAuthorizationFailedError, AccessDenied),
    (foreign.GroupAuthorizationFailedError, AccessDenied),
    (foreign.ClusterAuthorizationFailedError, AccessDenied),
    (foreign.AuthenticationFailedError, AccessDenied),
    (foreign.InvalidTopicError, TopologyMismatch),
    (foreign.KafkaConnectionError, ConnectionLost),
    (foreign.KafkaTimeoutError, ConnectionLost),
    (OSError, ConnectionLost),
    (TimeoutError, ConnectionLost),
)
_REFUSED = (
    foreign.MessageSizeTooLargeError,
    foreign.RecordListTooLargeError,
    foreign.TopicAuthorizationFailedError,
    foreign.NotEnoughReplicasError,
    foreign.InvalidTopicError,
)


def translate(error: BaseException, doing: str) -> DriverError:
    for theirs, ours in _ERRORS:
        if isinstance(error, theirs):
            return ours(f"{doing}: {error!r}")
    return DriverError(f"{doing}: {error!r}", retryable=bool(getattr(error, "retriable", False)))


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Foreign errors leave as ours, with their cause."""
    try:
        yield
    except FOREIGN as error:
        raise translate(error, doing) from error


def of_send(error: BaseException) -> Exception:
    made: Exception
    if isinstance(error, foreign.UnknownTopicOrPartitionError):
        made = translate(error, "sending")
    elif isinstance(error, _REFUSED):
        made = Rejected(repr(error))
    else:
        made = OutcomeUnknown(f"no confirmation: {error!r}")
    made.__cause__ = error
    return made

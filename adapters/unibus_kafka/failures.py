"""Errors of Kafka and its client, in our words."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiokafka import errors as foreign

from unibus.errors import (
    AccessDenied,
    ConnectionLost,
    DestinationNotFound,
    DriverError,
    MessageTooLarge,
    Rejected,
    TopologyMismatch,
)

FOREIGN = (foreign.KafkaError, OSError, TimeoutError)

# The first that fits counts: subclasses stand before their parents.
_ERRORS: tuple[tuple[type[Exception], type[DriverError], str], ...] = (
    (foreign.UnknownTopicOrPartitionError, DestinationNotFound, "start its consumer first, or check the name"),
    (foreign.TopicAuthorizationFailedError, AccessDenied, "give the user the right to this topic"),
    (foreign.GroupAuthorizationFailedError, AccessDenied, "give the user the right to this consumer group"),
    (foreign.ClusterAuthorizationFailedError, AccessDenied, "give the user the right, or let somebody else create it"),
    (foreign.AuthenticationFailedError, AccessDenied, "check user, password and sasl="),
    (foreign.SaslAuthenticationFailed, AccessDenied, "check user, password and sasl="),
    (foreign.UnsupportedSaslMechanismError, AccessDenied, "the server offers another; check sasl="),
    (foreign.IllegalSaslStateError, AccessDenied, "the server wants another way to log in; check sasl= and tls="),
    (foreign.InvalidTopicError, TopologyMismatch, "choose another name"),
    (foreign.InvalidPartitionsError, TopologyMismatch, "ask for at least one partition"),
    (foreign.InvalidReplicationFactorError, TopologyMismatch, "ask for no more replicas than there are brokers"),
    (foreign.PolicyViolationError, TopologyMismatch, "the cluster's policy forbids it"),
)
_TOO_LARGE = (foreign.MessageSizeTooLargeError, foreign.RecordListTooLargeError)


def translate(error: BaseException, doing: str) -> DriverError:
    """Our error for the library's. doing: what was tried, as in "creating 'orders'"."""
    for theirs, ours, advice in _ERRORS:
        if isinstance(error, theirs):
            return ours(f"{doing}: {words(error)}; {advice}")
    if isinstance(error, foreign.KafkaError) and not isinstance(error, foreign.KafkaConnectionError):
        return DriverError(f"{doing}: {words(error)}", retryable=bool(error.retriable))
    return ConnectionLost(f"{doing}: the cluster did not answer ({words(error)})")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Foreign errors leave as ours, with their cause. A CancelledError that nobody asked for is a lost connection."""
    try:
        yield
    except FOREIGN as error:
        raise translate(error, doing) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling() > 0:
            raise
        raise ConnectionLost(f"{doing}: the connection was lost") from error


def refusal(error: type[Exception], topic: str, size: int, limit: int) -> Exception:
    """Of a record that the broker has not stored, and will not."""
    if issubclass(error, _TOO_LARGE):
        return MessageTooLarge(size, limit)
    if issubclass(error, foreign.UnknownTopicOrPartitionError):
        return DestinationNotFound(f"{topic!r} does not exist; start its consumer first, or check the name")
    if issubclass(error, (foreign.TopicAuthorizationFailedError, foreign.ClusterAuthorizationFailedError)):
        return AccessDenied(f"sending to {topic!r}: {words(error())}; give the user the right to write to this topic")
    return Rejected(f"{topic!r} refused it: {words(error())}")


def is_too_large(error: type[Exception]) -> bool:
    return issubclass(error, _TOO_LARGE)


def words(error: BaseException) -> str:
    """Its name and what it says. The library's own sentence on an error is kept where it has one; objects of the
    library's that it puts into errors say nothing to others."""
    name, said = type(error).__name__, " ".join(one for one in error.args if isinstance(one, str))
    said = said or str(getattr(error, "description", "") or "")
    return f"{name}: {said}" if said else name

"""Errors of AWS and its client, in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as foreign

from unibus.errors import (
    AccessDenied,
    ConnectionLost,
    DestinationNotFound,
    DriverError,
    NotSent,
    OutcomeUnknown,
    Rejected,
    Throttled,
    TopologyMismatch,
)

FOREIGN = (foreign.BotoCoreError, foreign.ClientError, OSError, TimeoutError)

_CODES: dict[str, type[DriverError]] = {
    "AWS.SimpleQueueService.NonExistentQueue": DestinationNotFound,
    "QueueDoesNotExist": DestinationNotFound,
    "NotFound": DestinationNotFound,
    "QueueAlreadyExists": TopologyMismatch,
    "QueueNameExists": TopologyMismatch,
    "AccessDenied": AccessDenied,
    "AccessDeniedException": AccessDenied,
    "AuthorizationError": AccessDenied,
    "InvalidClientTokenId": AccessDenied,
    "UnrecognizedClientException": AccessDenied,
    "SignatureDoesNotMatch": AccessDenied,
    "ExpiredToken": AccessDenied,
    "OverLimit": Throttled,
    "RequestThrottled": Throttled,
    "ThrottlingException": Throttled,
    "Throttling": Throttled,
    "InternalError": ConnectionLost,
    "ServiceUnavailable": ConnectionLost,
}
_NO_CREDENTIALS = (foreign.NoCredentialsError, foreign.PartialCredentialsError, foreign.CredentialRetrievalError)
_NEVER_LEFT = (foreign.EndpointConnectionError, foreign.ConnectTimeoutError, ConnectionRefusedError)


def translate(error: Exception, doing: str) -> DriverError:
    if isinstance(error, _NO_CREDENTIALS):
        return AccessDenied(f"{doing}: {error}")
    if isinstance(error, foreign.ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
        return _CODES.get(code, DriverError)(f"{doing}: {error}")
    return ConnectionLost(f"{doing}: {error!r}")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Foreign errors leave as ours, with their cause."""
    try:
        yield
    except FOREIGN as error:
        raise translate(error, doing) from error


def of_send(error: Exception) -> Exception:
    """What becomes of every message of a call that failed as a whole."""
    ours = translate(error, "sending")
    made: Exception = Rejected(str(ours))
    if isinstance(ours, DestinationNotFound):
        made = ours
    elif isinstance(error, _NEVER_LEFT):
        made = NotSent(str(ours))
    elif isinstance(ours, ConnectionLost):
        made = OutcomeUnknown(str(ours))
    made.__cause__ = error
    return made


def of_entry(failed: dict[str, Any]) -> Rejected:
    """AWS answers with success and lists what it did not take."""
    return Rejected(f"{failed.get('Code')}: {failed.get('Message', 'no reason given')}")

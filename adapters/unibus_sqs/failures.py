"""Errors of AWS and its client, in our words."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aiohttp import ClientConnectorError
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

STALE = {"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"}
"""What a batch says of a receipt handle that is void."""

_CODES: dict[str, type[DriverError]] = {
    "NonExistentQueue": DestinationNotFound,
    "QueueDoesNotExist": DestinationNotFound,
    "NotFound": DestinationNotFound,
    "NotFoundException": DestinationNotFound,
    "QueueDeletedRecently": Throttled,
    "QueueAlreadyExists": TopologyMismatch,
    "QueueNameExists": TopologyMismatch,
    "AccessDenied": AccessDenied,
    "AccessDeniedException": AccessDenied,
    "AuthorizationError": AccessDenied,
    "AuthFailure": AccessDenied,
    "InvalidClientTokenId": AccessDenied,
    "InvalidSecurity": AccessDenied,
    "UnrecognizedClientException": AccessDenied,
    "SignatureDoesNotMatch": AccessDenied,
    "ExpiredToken": AccessDenied,
    "ExpiredTokenException": AccessDenied,
    "OptInRequired": AccessDenied,
    "OverLimit": Throttled,
    "RequestThrottled": Throttled,
    "ThrottlingException": Throttled,
    "ThrottledException": Throttled,
    "Throttling": Throttled,
    "TooManyRequestsException": Throttled,
    "KmsThrottled": Throttled,
    "KMSThrottling": Throttled,
    "KMSThrottlingException": Throttled,
    "KmsAccessDenied": AccessDenied,
    "KMSAccessDenied": AccessDenied,
    "KMSAccessDeniedException": AccessDenied,
    "RequestTimeTooSkewed": ConnectionLost,
    "RequestExpired": ConnectionLost,
    "InternalError": ConnectionLost,
    "InternalFailure": ConnectionLost,
    "InternalErrorException": ConnectionLost,
    "InternalServerError": ConnectionLost,
    "ServiceUnavailable": ConnectionLost,
}
_UNREADY = (foreign.CredentialRetrievalError, foreign.TokenRetrievalError)
_NO_CREDENTIALS = (
    foreign.NoCredentialsError, foreign.PartialCredentialsError, foreign.UnauthorizedSSOTokenError,
    foreign.NoAuthTokenError,
)  # fmt: skip
_NEVER_LEFT = (
    foreign.ConnectTimeoutError, foreign.ProxyConnectionError,
    ConnectionRefusedError, *_NO_CREDENTIALS, *_UNREADY,
)  # fmt: skip
_WITHIN_THE_REQUEST = (foreign.ParamValidationError,)
_SKEW = re.compile(r"signature (?:expired|not yet current)", re.IGNORECASE)
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")


def code_of(error: BaseException) -> str:
    """AWS's own word for an error, without the namespace that older protocols put before it."""
    if not isinstance(error, foreign.ClientError):
        return ""
    return _short(str(error.response.get("Error", {}).get("Code", "")))


def _short(code: str) -> str:
    return code.rpartition(".")[2].rpartition("#")[2]


def translate(error: Exception, doing: str) -> DriverError:
    words = _KEY_ID.sub("***", str(error))
    if isinstance(error, _NO_CREDENTIALS):
        return AccessDenied(f"{doing}: {words}; AWS's default chain of credentials found none that are whole")
    if isinstance(error, foreign.ClientError):
        ours = _CODES.get(code_of(error), DriverError)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if _SKEW.search(words) or (ours is DriverError and status >= 500):
            ours = ConnectionLost
        return ours(f"{doing}: {words}")
    if isinstance(error, _WITHIN_THE_REQUEST):
        return DriverError(f"{doing}: {words}")
    return ConnectionLost(f"{doing}: {type(error).__name__}: {words}")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Foreign errors leave as ours, with their cause."""
    try:
        yield
    except FOREIGN as error:
        raise translate(error, doing) from error


def _refused(error: Exception) -> bool:
    """An answer that says no: whatever the reason, nothing was stored."""
    if not isinstance(error, foreign.ClientError):
        return False
    return 400 <= int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) < 500


def _did_not_leave(error: Exception) -> bool:
    """aiobotocore says EndpointConnectionError of a connection that broke in use, too: then the request may have been
    carried out, and only what aiohttp has said tells the one from the other."""
    if isinstance(error, foreign.EndpointConnectionError):
        return isinstance(error.kwargs.get("error"), (ClientConnectorError, socket.gaierror))
    return isinstance(error, _NEVER_LEFT)


def never_left(error: Exception) -> bool:
    """Whether it is certain that the server has taken nothing, and it may do so later."""
    if isinstance(error, _NO_CREDENTIALS):
        return False
    return _did_not_leave(error) or isinstance(translate(error, ""), Throttled)


def of_send(error: Exception) -> Exception:
    """What becomes of every message of a call that failed as a whole."""
    ours = translate(error, "sending")
    made: Exception = Rejected(str(ours))
    if isinstance(ours, DestinationNotFound):
        made = ours
    elif _did_not_leave(error) or isinstance(ours, Throttled) or (ours.retryable and _refused(error)):
        made = NotSent(f"{ours}; nothing was stored, send it again")
    elif isinstance(ours, ConnectionLost):
        made = OutcomeUnknown(f"{ours}; the message may be stored")
    made.__cause__ = error
    return made


def of_search(error: DriverError) -> Exception:
    """What becomes of messages whose queue could not be looked for."""
    if isinstance(error, DestinationNotFound):
        return error
    made = (NotSent if error.retryable else Rejected)(f"{error}; nothing was sent")
    made.__cause__ = error
    return made


def may_pass(failed: Mapping[str, Any]) -> bool:
    """AWS answers with success and lists what it did not take: whether it was the server's fault, not ours."""
    return not failed.get("SenderFault", False) or _CODES.get(_short(failed.get("Code", ""))) is Throttled


def of_entry(failed: Mapping[str, Any]) -> Exception:
    words = f"{failed.get('Code')}: {failed.get('Message', 'no reason given')}"
    return NotSent(f"{words}; nothing was stored, send it again") if may_pass(failed) else Rejected(words)

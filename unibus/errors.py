"""Every error that unibus raises, as one tree.

UnibusError
├── ConfigurationError         found at start-up; nothing was connected, sent or handled
│   ├── UnknownScheme          no adapter for the URL's scheme
│   ├── MissingDependency      the adapter is there, its client library is not
│   └── UnsupportedCapability  the broker cannot do what the program asks for
├── NotOpen                    used before it was opened, or after it was closed
├── DriverError                the broker or the way to it; `retryable` says whether waiting helps
│   ├── ConnectionLost
│   ├── Throttled
│   ├── DestinationNotFound
│   ├── AccessDenied
│   ├── TopologyMismatch
│   └── SettlementLost         the token is stale: the message will be, or was, delivered again
├── SendError
│   ├── Rejected               the broker said no: it is not stored
│   ├── OutcomeUnknown         it may be stored; sending again may duplicate
│   ├── NotSent                it never left; sending again is safe
│   ├── MessageTooLarge
│   └── BatchError             some of a batch failed; the rest is sent
├── CodecError
│   ├── EncodeError            raised before anything leaves
│   └── DecodeError            never retried: the bytes go to the dead letters as they are
├── Crashed                    a message that took its process down three times
└── HandlerCancelled           the handler ended with a CancelledError that unibus did not cause
"""

from __future__ import annotations

from collections.abc import Mapping


class UnibusError(Exception):
    """The root: `except UnibusError` catches all that this library raises."""


class ConfigurationError(UnibusError):
    """The program asks for something that cannot be: said at start-up, before anything happens."""


class UnknownScheme(ConfigurationError):
    """No installed adapter serves the URL's scheme."""


class MissingDependency(ConfigurationError):
    """The adapter's client library is not installed; the message has the pip command."""


class UnsupportedCapability(ConfigurationError):
    """The broker cannot do what a handler or a producer asks for."""


class NotOpen(UnibusError):
    """A bus, producer or subscription was used before it was opened or after it was closed."""


class DriverError(UnibusError):
    """The broker, or the way to it, failed. `retryable`: the same call may succeed later."""

    retryable: bool = False

    def __init__(self, *args: object, retryable: bool | None = None) -> None:
        super().__init__(*args)
        if retryable is not None:
            self.retryable = retryable


class ConnectionLost(DriverError):
    """The connection went away; the driver is reconnecting."""

    retryable = True


class Throttled(DriverError):
    """The broker asked us to slow down."""

    retryable = True


class DestinationNotFound(DriverError):
    """The queue, or the group's queue, does not exist on the broker."""


class AccessDenied(DriverError):
    """The broker refused the credentials, or the credentials lack a right."""


class TopologyMismatch(DriverError):
    """What exists on the broker differs from what was declared; the message names the difference."""


class SettlementLost(DriverError):
    """Some deliveries are no longer ours to settle: their lease, channel or partition is gone.

    count: how many of the call.
    """

    def __init__(self, *args: object, count: int = 1) -> None:
        super().__init__(*args)
        self.count = count


class SendError(UnibusError):
    """A message was not confirmed."""


class Rejected(SendError):
    """The broker refused the message: it is not stored."""


class OutcomeUnknown(SendError):
    """No answer came: the message may or may not be stored. Sending it again may duplicate it."""


class NotSent(SendError):
    """The message never left, since an earlier one of its key failed. Sending it again is safe."""


class MessageTooLarge(SendError):
    """The message is over the broker's limit. `size` and `limit` are bytes."""

    def __init__(self, size: int, limit: int, what: str = "message") -> None:
        super().__init__(
            f"{what} of {size:,} bytes is over the broker's limit of {limit:,} bytes; "
            "send a reference to where the data is stored instead, or raise the broker's limit"
        )
        self.size = size
        self.limit = limit


class BatchError(SendError):
    """Some messages of a batch failed. `errors` maps the index in the batch to its error.

    All other messages of the batch are confirmed.
    """

    def __init__(self, errors: Mapping[int, Exception], total: int | None = None) -> None:
        self.errors = dict(errors)
        first = min(self.errors)
        of = f" of {total}" if total is not None else ""
        super().__init__(
            f"{len(self.errors)}{of} messages failed; the first is message {first}: "
            f"{type(self.errors[first]).__name__}: {self.errors[first]}"
        )


class CodecError(UnibusError):
    """A payload could not be turned into bytes, or bytes into a payload."""


class EncodeError(CodecError):
    """The payload does not fit its type, or cannot be written as JSON. Nothing was sent."""


class DecodeError(CodecError):
    """The bytes do not validate as the handler's payload."""


class Crashed(UnibusError):
    """The message was delivered three times alone, and each time the process died before settling it."""


class HandlerCancelled(UnibusError):
    """The handler ended with a CancelledError that unibus did not cause: a failure like any other."""

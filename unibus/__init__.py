"""unibus: one typed asyncio API to produce, publish and consume messages on any broker."""

from unibus.address import Queue, Topic, TopicSubscription
from unibus.bus import Bus
from unibus.dead_letters import DeadLetter
from unibus.errors import (
    BatchError,
    ConfigurationError,
    DecodeError,
    DestinationNotFound,
    EncodeError,
    MessageTooLarge,
    NotOpen,
    NotSent,
    OutcomeUnknown,
    Rejected,
    UnibusError,
    UnsupportedCapability,
)
from unibus.message import Message
from unibus.middleware.backoff import constant, exponential, linear
from unibus.middleware.dead_letter import dead_letter
from unibus.middleware.idempotent import idempotent
from unibus.middleware.rate_limit import rate_limit
from unibus.middleware.retry import retry
from unibus.middleware.timeout import timeout
from unibus.middleware.use import use
from unibus.options import BatchHandler, BatchMiddleware, Handler, Middleware
from unibus.outcome import Drop, Reject, Retry
from unibus.router import Router

__all__ = [
    "BatchError",
    "BatchHandler",
    "BatchMiddleware",
    "Bus",
    "ConfigurationError",
    "DeadLetter",
    "DecodeError",
    "DestinationNotFound",
    "Drop",
    "EncodeError",
    "Handler",
    "Message",
    "MessageTooLarge",
    "Middleware",
    "NotOpen",
    "NotSent",
    "OutcomeUnknown",
    "Queue",
    "Reject",
    "Rejected",
    "Retry",
    "Router",
    "Topic",
    "TopicSubscription",
    "UnibusError",
    "UnsupportedCapability",
    "constant",
    "dead_letter",
    "exponential",
    "idempotent",
    "linear",
    "rate_limit",
    "retry",
    "timeout",
    "use",
]

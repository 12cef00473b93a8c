"""What a handler gets: the payload and all that travels with it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar

from unibus import attributes as names
from unibus.dead_letters import DeadLetter
from unibus.driver import Delivery
from unibus.outcome import Drop, Postponed, Reject, Retry

T = TypeVar("T")


class Message(Generic[T]):
    """One message on delivery. `data` is the validated payload; the rest is read when asked for.

    Made by unibus per delivery; `unibus.testing.message` makes one for a handler's own test.
    """

    __slots__ = ("attempt", "data", "delivery", "mark", "settle_after")

    def __init__(self, data: T, delivery: Delivery, attempt: int = 1) -> None:
        self.data = data
        self.delivery = delivery
        self.attempt = attempt
        """1 for the first run, 2 after one failure that was recorded, and so on."""
        self.mark: Retry | Reject | Drop | Postponed | Exception | None = None
        """In a batch: how this one ends, where it differs from the batch."""
        self.settle_after: asyncio.Future[None] | None = None
        """Set by a middleware: once its handler has succeeded, the message is acked when this is done; not if it is
        cancelled. No lane waits for it."""

    @property
    def id(self) -> str:
        """The message's own id (a time-ordered UUID), the same on every delivery and re-send."""
        return self.delivery.message_id

    @property
    def type(self) -> str | None:
        """The name of the payload's type, as the sender said it."""
        return self.delivery.attributes.get(names.TYPE)

    @property
    def version(self) -> str | None:
        """The version of the payload's type, as the sender said it."""
        return self.delivery.attributes.get(names.VERSION)

    @property
    def source(self) -> str | None:
        """The name of the Bus that sent it."""
        return self.delivery.attributes.get(names.SOURCE)

    @property
    def timestamp(self) -> datetime | None:
        """When it was sent, in UTC, by the sender's clock, else by the broker's."""
        time = names.parse_time(self.delivery.attributes.get(names.TIME))
        if time is None and self.delivery.sent_at is not None:
            time = datetime.fromtimestamp(self.delivery.sent_at, UTC)
        return time

    @property
    def correlation_id(self) -> str:
        """The id of the message that began the conversation: its own where it began one."""
        return self.delivery.attributes.get(names.CORRELATION_ID) or self.delivery.message_id

    @property
    def causation_id(self) -> str | None:
        """The id of the message whose handler sent this one."""
        return self.delivery.attributes.get(names.CAUSATION_ID)

    @property
    def key(self) -> str | None:
        return self.delivery.key

    @property
    def headers(self) -> Mapping[str, str]:
        """The user's own headers."""
        return self.delivery.headers

    @property
    def attributes(self) -> Mapping[str, str]:
        """What unibus and the sender's side say about the message (CloudEvents names)."""
        return self.delivery.attributes

    @property
    def address(self) -> str:
        """The topic where it was published, else the queue."""
        return self.delivery.address

    @property
    def redelivered(self) -> bool:
        """Whether the broker says that it was delivered before."""
        return self.delivery.redelivered

    @property
    def body(self) -> bytes | None:
        """The payload as it travelled."""
        return self.delivery.body

    @property
    def native(self) -> Any:
        """The client library's own object, or None."""
        return self.delivery.native

    @property
    def dead_letter(self) -> DeadLetter | None:
        """Why it is a dead letter, for a consumer of dead letters; None for any other message."""
        return DeadLetter.from_attributes(self.delivery.attributes)

    def retry(self, after: float | timedelta | None = None) -> None:
        """In a batch handler: run this one again, as if a handler of its own had raised Retry."""
        self.mark = Retry(after)

    def reject(self, reason: str = "rejected") -> None:
        """In a batch handler: send this one to the dead letters."""
        self.mark = Reject(reason)

    def __repr__(self) -> str:
        return f"Message(id={self.id!r}, type={self.type!r}, address={self.address!r}, attempt={self.attempt})"


current_message: ContextVar[Message[Any] | None] = ContextVar("unibus_current_message", default=None)
"""The message being handled: what its handler sends inherits its correlation id."""

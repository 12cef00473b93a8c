"""One message among the dead letters, as it lies there."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any

from unibus import attributes as names
from unibus.dead_letters.record import DeadLetter
from unibus.driver import Delivery

GROUP = "group:"
"""Before the name of a group, wherever a queue's could stand."""


class Letter:
    """What is known about a dead letter; the rest of the message is in `delivery`.

    record: None where there is none of ours. now: seconds since 1970, when it was looked at. owner: whose dead
    letters they are, if that is known.
    """

    __slots__ = ("delivery", "now", "owner", "record")

    def __init__(self, delivery: Delivery, now: float, owner: str = "") -> None:
        self.delivery = delivery
        self.record = DeadLetter.from_attributes(delivery.attributes)
        self.now = now
        self.owner = owner

    @property
    def id(self) -> str:
        return self.delivery.message_id

    @property
    def body(self) -> bytes | None:
        """As it was sent; None is a tombstone."""
        return self.delivery.body

    @property
    def source(self) -> str:
        """Whose it was: a queue, or `group:` and a group. Without a record, whose dead letters these are."""
        if self.record is None:
            return self.owner
        return GROUP + self.record.group if self.record.group else self.record.source

    @property
    def age(self) -> float | None:
        """Seconds since it failed for the last time; without a record, since it was sent. None: nobody knows."""
        failed = self.record.last_failure_time if self.record is not None else None
        if failed is not None:
            return max(self.now - failed.timestamp(), 0.0)
        return None if self.delivery.sent_at is None else max(self.now - self.delivery.sent_at, 0.0)

    @property
    def error(self) -> str:
        """The exception's qualified name, "" for none."""
        return self.record.error_type if self.record is not None else ""

    @property
    def reason(self) -> str:
        return self.record.reason if self.record is not None else ""

    @property
    def attempts(self) -> int | None:
        """Runs of the handler; None without a record."""
        return self.record.attempts if self.record is not None else None

    @property
    def replays(self) -> int:
        """How often it was replayed before."""
        return names.parse_replays(self.delivery.attributes)

    @property
    def type(self) -> str:
        """The name of the payload's type, as the sender said it, "" for none."""
        return self.delivery.attributes.get(names.TYPE, "")

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data. A body that is no text is base64, under another name."""
        body = self.delivery.body
        described: dict[str, Any] = {
            "id": self.id,
            "key": self.delivery.key,
            "type": self.type,
            "source": self.source,
            "age": None if self.age is None else round(self.age, 3),
            "attempts": self.attempts,
            "replays": self.replays,
            "record": None if self.record is None else asdict(self.record),
            "headers": dict(self.delivery.headers),
            "attributes": names.without_own(self.delivery.attributes),
        }
        try:
            described["body"] = None if body is None else body.decode()
        except UnicodeDecodeError:
            described["body_base64"] = base64.b64encode(body or b"").decode()
        return described

    def __repr__(self) -> str:
        return f"Letter({self.id!r}, of {self.source!r}: {self.reason or 'no record'})"

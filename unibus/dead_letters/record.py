"""The record that travels with a dead letter, the same on every broker."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime

from unibus import attributes as names

MAX_STACK = 4096
"""Bytes of stack text that are kept, the end of it."""
MAX_TEXT = 1024
"""Bytes of an error message or a reason that are kept."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why a message is a dead letter.

    error_type: the exception's qualified name. attempts: runs of the handler. first_failure,
    last_failure: RFC 3339, UTC. source: the queue, or the group's own queue. topic: where it was
    published, if it was. trace_id: of the W3C trace context that it carried.
    """

    reason: str
    error_type: str = ""
    message: str = ""
    stack: str = ""
    attempts: int = 1
    first_failure: str = ""
    last_failure: str = ""
    source: str = ""
    topic: str = ""
    group: str = ""
    handler: str = ""
    host: str = ""
    trace_id: str = ""

    def to_attributes(self) -> dict[str, str]:
        return {
            _attribute(field.name): str(getattr(self, field.name))
            for field in fields(self)
            if getattr(self, field.name) != ""
        }

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, str]) -> DeadLetter | None:
        """The record of a dead letter, or None where there is none (a message of a stranger)."""
        if _attribute("reason") not in attributes:
            return None
        found = {field.name: attributes.get(_attribute(field.name), "") for field in fields(cls)}
        attempts = found.pop("attempts")
        return cls(**found, attempts=int(attempts[:8]) if attempts.isascii() and attempts.isdigit() else 1)

    @property
    def last_failure_time(self) -> datetime | None:
        return names.parse_time(self.last_failure)

    def cut(self, excess: int) -> DeadLetter:
        """The record made shorter by at least `excess` bytes if that can be: the stack goes first."""
        stack = _last_bytes(self.stack, max(len(self.stack.encode()) - excess, 0))
        excess -= len(self.stack.encode()) - len(stack.encode())
        if excess <= 0:
            return replace(self, stack=stack)
        return replace(self, stack="", message=_first_bytes(self.message, max(len(self.message.encode()) - excess, 0)))


def _attribute(field_name: str) -> str:
    """CloudEvents attribute names are lower-case letters and digits."""
    return "unibusdl" + field_name.replace("_", "")


def is_record(attribute: str) -> bool:
    return attribute.startswith("unibusdl")


def describe(error: BaseException, reason: str | None = None) -> DeadLetter:
    """What an exception tells: the text is cut, the traceback keeps its end."""
    kind = type(error)
    stack = "".join(traceback.format_exception(error)) if error.__traceback__ is not None else ""
    return DeadLetter(
        reason=_first_bytes(reason or f"{kind.__name__}: {error}", MAX_TEXT),
        error_type=kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
        message=_first_bytes(str(error), MAX_TEXT),
        stack=_last_bytes(stack, MAX_STACK),
        host=socket.gethostname(),
    )


def _first_bytes(text: str, most: int) -> str:
    return text.encode(errors="replace")[:most].decode(errors="ignore")


def _last_bytes(text: str, most: int) -> str:
    return text.encode(errors="replace")[-most:].decode(errors="ignore") if most else ""

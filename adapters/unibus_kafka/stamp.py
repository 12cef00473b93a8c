"""Which topic an offset was committed for: of one that was deleted it would skip what lies in its successor.

A stamp stands behind the note of a commit. What others commit has none, and is taken as it is. No input or output here.
"""

from __future__ import annotations

import base64

from unibus_kafka.metadata import UNKNOWN

_MARK = "@"


def stamped(note: str, identity: bytes) -> str:
    return note if identity == UNKNOWN else f"{note}{_MARK}{_text(identity)}"


def unstamped(text: str, identity: bytes) -> str | None:
    """The note; None if it was committed for another topic than the one with this identity."""
    note, _, stamp = text.partition(_MARK)
    return note if not stamp or identity == UNKNOWN or stamp == _text(identity) else None


def _text(identity: bytes) -> str:
    return base64.urlsafe_b64encode(identity).decode().rstrip("=")

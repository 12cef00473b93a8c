"""Keys as the database can keep them: an index takes no long ones, a text no NUL. What cannot be kept is hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

LONGEST = 500
"""Bytes."""


def spelled(key: str) -> str:
    """The key itself, nearly always."""
    encoded = key.encode(errors="surrogatepass")
    try:
        if key and len(encoded) <= LONGEST and "\0" not in key and encoded.decode() == key:
            return key
    except UnicodeDecodeError:
        pass  # half a character, as JSON allows: hashed, too
    readable = key[:100].encode(errors="ignore").decode().replace("\0", "")
    return f"{readable} sha256:{hashlib.sha256(encoded).hexdigest()}"


def spelled_all(keys: Sequence[str]) -> list[str]:
    return [spelled(key) for key in keys]

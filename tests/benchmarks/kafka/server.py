"""Where aiokafka finds the server of a task."""

from __future__ import annotations

from urllib.parse import urlsplit


def servers(url: str) -> str:
    """host:port of kafka://host:port."""
    return urlsplit(url).netloc

"""What a contender is told to do, and what it says if it cannot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

IMPOSSIBLE: Final = 3
"""The exit code of a contender that raised Impossible; what it printed is the reason."""


class Impossible(Exception):
    """A contender cannot do this at all, so that there is no figure to be had."""


@dataclass(frozen=True)
class Task:
    """name: of the queue, topic or stream that this turn is held on. store: the URL of an idempotency store."""

    url: str
    name: str
    count: int
    store: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

"""How a bus is doing, for probes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """live: the process should go on. ready: it does its work; `reasons` say why it does not."""

    live: bool
    ready: bool
    reasons: tuple[str, ...] = ()

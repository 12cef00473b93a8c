"""The protocol of an idempotency store.

A key is free, claimed by an owner until its lease ends, or done. Every new claim of a key has a
higher fence; `complete`, `release` and `renew` compare owner and fence, so that an owner whose
lease lapsed cannot speak for the key any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias


@dataclass(frozen=True, slots=True)
class New:
    """The key is ours; `fence` proves it."""

    fence: int


@dataclass(frozen=True, slots=True)
class InProgress:
    """Another claim holds the key for `remaining` seconds more, unless it is renewed."""

    owner: str
    remaining: float


@dataclass(frozen=True, slots=True)
class Done:
    """The key's effect has happened."""

    result: bytes | None = None


Claim: TypeAlias = New | InProgress | Done


class Held(NamedTuple):
    """A claim of ours, as `complete`, `release` and `renew` take it."""

    key: str
    owner: str
    fence: int


class IdempotencyStore(Protocol):
    """Batches are the unit. Any error but CancelledError means that the store is down for now."""

    async def open(self) -> None:
        """Connect. Raises AccessDenied or ConnectionLost. May be called again after `close`."""

    async def close(self) -> None:
        """Idempotent."""

    async def claim(self, keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        """Claim each key for `lease` seconds, or say who has it or that it is done. Keys are distinct.

        What its owner has claimed already is New again: the answer that it lacks was lost on the way.
        """

    async def complete(self, items: Sequence[Held], ttl: float) -> Sequence[bool]:
        """Mark each key done for `ttl` seconds; False where the claim is no longer ours."""

    async def release(self, items: Sequence[Held]) -> Sequence[bool]:
        """Free each key; False where the claim is no longer ours."""

    async def renew(self, items: Sequence[Held], lease: float) -> Sequence[bool]:
        """Hold each key for `lease` seconds from now; False where the claim is no longer ours."""

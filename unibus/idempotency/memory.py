"""An idempotency store in the process: for tests and single processes, bounded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from unibus.driver import Clock
from unibus.idempotency.store import Claim, Done, Held, InProgress, New

MAX_KEYS = 1_000_000


class _Entry:
    __slots__ = ("fence", "owner", "until")

    def __init__(self, owner: str, fence: int, until: float) -> None:
        self.owner = owner
        self.fence = fence
        self.until = until


class MemoryStore:
    """Keeps at most `max_keys` keys: the ones completed longest ago go first, claimed ones stay."""

    def __init__(self, clock: Clock, max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._claimed: dict[str, _Entry] = {}
        self._done: OrderedDict[str, _Entry] = OrderedDict()
        self._fence = 0

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def claim(self, keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        now = self._clock.monotonic()
        self._forget(now)
        return [self._claim(key, owner, lease, now) for key in keys]

    def _claim(self, key: str, owner: str, lease: float, now: float) -> Claim:
        if key in self._done:
            if self._done[key].until > now:
                return Done()
            del self._done[key]
        entry = self._claimed.get(key)
        if entry is not None and entry.until > now and entry.owner != owner:
            return InProgress(entry.owner, entry.until - now)
        self._fence += 1
        self._claimed[key] = _Entry(owner, self._fence, now + lease)
        return New(self._fence)

    async def complete(self, items: Sequence[Held], ttl: float) -> Sequence[bool]:
        now = self._clock.monotonic()
        answers = []
        for item in items:
            entry = self._ours(item)
            if entry is not None:
                del self._claimed[item.key]
                entry.until = now + ttl
                self._done[item.key] = entry
            answers.append(entry is not None)
        self._forget(now)
        return answers

    async def release(self, items: Sequence[Held]) -> Sequence[bool]:
        answers = []
        for item in items:
            ours = self._ours(item) is not None
            if ours:
                del self._claimed[item.key]
            answers.append(ours)
        return answers

    async def renew(self, items: Sequence[Held], lease: float) -> Sequence[bool]:
        until = self._clock.monotonic() + lease
        answers = []
        for item in items:
            entry = self._ours(item)
            if entry is not None:
                entry.until = until
            answers.append(entry is not None)
        return answers

    def _ours(self, item: Held) -> _Entry | None:
        """The claim, if it is still this owner's. One whose lease lapsed is, until somebody else takes the key."""
        entry = self._claimed.get(item.key)
        return entry if entry is not None and (entry.owner, entry.fence) == (item.owner, item.fence) else None

    def _forget(self, now: float) -> None:
        while self._done:
            key, entry = next(iter(self._done.items()))
            if entry.until > now and len(self._done) <= self._max_keys:
                break
            del self._done[key]

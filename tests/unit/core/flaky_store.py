"""A store of keys that fails when a test says so."""

from __future__ import annotations

from collections.abc import Sequence

from unibus.idempotency.memory import MemoryStore
from unibus.idempotency.store import Claim, Held


class Flaky(MemoryStore):
    """A store that is down for a while."""

    down = False
    fail_completions = 0
    renewals = 0

    async def claim(self, keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        if self.down:
            raise ConnectionError("the store is down")
        return await super().claim(keys, owner, lease)

    async def complete(self, items: Sequence[Held], ttl: float) -> Sequence[bool]:
        if self.fail_completions:
            self.fail_completions -= 1
            raise ConnectionError("the store is down")
        return await super().complete(items, ttl)

    async def renew(self, items: Sequence[Held], lease: float) -> Sequence[bool]:
        self.renewals += 1
        return await super().renew(items, lease)

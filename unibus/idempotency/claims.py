"""The claims of one process on one store: coalesced, renewed while held, and shared by all lanes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from unibus.coalesce import Coalescer
from unibus.driver import Clock, Timer
from unibus.idempotency.store import Claim, Held, IdempotencyStore, New

logger = logging.getLogger("unibus.idempotency")


class _Local:
    """A key that this process is claiming or holds. `freed` is made when somebody waits for it."""

    __slots__ = ("freed", "held")

    def __init__(self) -> None:
        self.held: Held | None = None
        self.freed: asyncio.Future[object] | None = None


class Busy:
    """The key is in hand in this very process; `freed` is done when it no longer is."""

    __slots__ = ("freed",)

    def __init__(self, freed: asyncio.Future[object]) -> None:
        self.freed = freed


class Claims:
    """lease: seconds for which a claim outlives its process. ttl: seconds for which a key stays done."""

    def __init__(self, store: IdempotencyStore, clock: Clock, owner: str, lease: float, ttl: float) -> None:
        self._store = store
        self._clock = clock
        self._owner = owner
        self._lease = lease
        self._ttl = ttl
        self._local: dict[str, _Local] = {}
        self._closed = False
        self._timer: Timer | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._claims: Coalescer[str, Claim] = Coalescer(
            lambda keys: store.claim(keys, owner, lease), late=self._answered_late
        )
        self._completions: Coalescer[Held, bool] = Coalescer(lambda items: store.complete(items, ttl))
        self._releases: Coalescer[Held, bool] = Coalescer(store.release)

    async def claim(self, key: str) -> Claim | Busy:
        local = self._local.get(key)
        if local is not None:
            if local.freed is None:
                local.freed = asyncio.get_running_loop().create_future()
            return Busy(local.freed)
        self._local[key] = local = _Local()
        answer = self._claims.submit(key)
        try:
            claim = await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():  # in the same moment
                self._answered_late(key, None if answer.exception() is not None else answer.result())
            raise
        except Exception:
            self._free(key)
            raise
        if isinstance(claim, New):
            local.held = Held(key, self._owner, claim.fence)
            self._keep_renewing()
        else:
            self._free(key)
        return claim

    def _answered_late(self, key: str, claim: Claim | None) -> None:
        """Who claimed was cancelled meanwhile: nobody will give it back but we."""
        if isinstance(claim, New):
            self._local[key].held = Held(key, self._owner, claim.fence)
            self.release(key)
        else:
            self._free(key)

    async def claim_all(self, keys: Iterable[str]) -> Sequence[Claim | Busy]:
        """One call for all of them, all or none; a key that stands twice is Busy the second time."""
        distinct = list(keys)
        answers = await asyncio.gather(*[self.claim(key) for key in distinct], return_exceptions=True)
        failed = [answer for answer in answers if isinstance(answer, BaseException)]
        if failed:
            for key, answer in zip(distinct, answers, strict=True):
                if isinstance(answer, New):
                    self.release(key)
            raise failed[0]
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    def holds(self, key: str) -> bool:
        """Whether the key is claimed here: with a store that failed open it is not."""
        local = self._local.get(key)
        return local is not None and local.held is not None

    async def complete(self, key: str) -> bool:
        """Whether the claim was still ours. However often the store fails, it is tried again, and the claim renewed:
        without it the message must not be acked."""
        held = self._local[key].held
        assert held is not None
        wait = 1.0
        while True:
            try:
                done = await self._completions.submit(held)
                self._free(key)
                return done
            except Exception as error:
                logger.warning("idempotency key %r cannot be completed, again in %.0f s: %s", key, wait, error)
            await self._clock.sleep(wait)
            wait = min(wait * 2, 60.0)

    def release(self, key: str) -> None:
        """Give the key back, in the background: if that fails the lease ends by itself."""
        local = self._local.get(key)
        if local is None or local.held is None:
            return
        self._releases.submit(local.held).add_done_callback(lambda answer: self._released(key, answer))

    def _released(self, key: str, answer: asyncio.Future[bool]) -> None:
        if not answer.cancelled() and answer.exception() is not None:
            logger.warning("idempotency key %r could not be released: %s", key, answer.exception())
        self._free(key)

    async def close(self) -> None:
        """Answer what is under way, then let go."""
        self._closed = True
        for coalescer in (self._claims, self._completions, self._releases):
            await coalescer.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])

    def _free(self, key: str) -> None:
        local = self._local.pop(key, None)
        if local is not None and local.freed is not None and not local.freed.done():
            local.freed.set_result(None)

    def _keep_renewing(self) -> None:
        if self._timer is None and self._renewal is None and not self._closed:
            self._timer = self._clock.call_later(self._lease / 3, self._start_renewal)

    def _start_renewal(self) -> None:
        self._timer = None
        held = [local.held for local in self._local.values() if local.held is not None]
        if held:  # nothing held: the next claim sets the timer again
            self._renewal = asyncio.get_running_loop().create_task(self._renew(held))

    async def _renew(self, held: list[Held]) -> None:
        try:
            await self._store.renew(held, self._lease)
        except Exception as error:
            logger.warning("%d idempotency claims could not be renewed: %s", len(held), error)
        finally:
            self._renewal = None
            self._keep_renewing()

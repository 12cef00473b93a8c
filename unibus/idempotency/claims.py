"""The claims of one process on one store: coalesced, renewed while held, and shared by all lanes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from unibus.coalesce import Coalescer
from unibus.driver import Clock, Timer
from unibus.idempotency.completions import Completions
from unibus.idempotency.store import Claim, Held, IdempotencyStore, New

logger = logging.getLogger("unibus.idempotency")


class Local:
    """A key that this process is claiming, or holds: then with a fence. `freed` is made when somebody waits for it."""

    __slots__ = ("fence", "freed", "key")

    def __init__(self, key: str) -> None:
        self.key = key
        self.fence: int | None = None
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
        self._local: dict[str, Local] = {}
        self._closed = False
        self._timer: Timer | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._claims: Coalescer[Local, Claim | Busy] = Coalescer(self._claim, calls=2, late=self._answered_late)
        self._completions: Completions[Local] = Completions(self._complete, clock)
        self._releases: Coalescer[Local, bool] = Coalescer(self._release)

    def claim(self, key: str) -> asyncio.Future[Claim | Busy]:
        """Whoever is cancelled while he awaits it calls `give_up`."""
        local = self._local.get(key)
        if local is None:
            self._local[key] = local = Local(key)
            return self._claims.submit(local)
        loop = asyncio.get_running_loop()
        if local.freed is None:
            local.freed = loop.create_future()
        answer: asyncio.Future[Claim | Busy] = loop.create_future()
        answer.set_result(Busy(local.freed))
        return answer

    def give_up(self, key: str, answer: asyncio.Future[Claim | Busy]) -> None:
        """What nobody waits for any more is given back: here if it was answered in the same moment, else then."""
        if answer.done() and not answer.cancelled() and answer.exception() is None and isinstance(answer.result(), New):
            self.release(key)

    async def _claim(self, claiming: Sequence[Local]) -> Sequence[Claim | Busy]:
        try:
            answers = await self._store.claim([local.key for local in claiming], self._owner, self._lease)
        except BaseException:
            for local in claiming:
                self._free(local)
            raise
        for local, answer in zip(claiming, answers, strict=True):
            if isinstance(answer, New):
                local.fence = answer.fence
            else:
                self._free(local)
        self._keep_renewing()
        return answers

    def _answered_late(self, local: Local, claim: Claim | Busy | None) -> None:
        """Who claimed was cancelled meanwhile: nobody will give it back but we."""
        self.release(local.key)

    async def claim_all(self, keys: Iterable[str]) -> Sequence[Claim | Busy]:
        """One call for all of them, all or none; a key that stands twice is Busy the second time."""
        answers = [(key, self.claim(key)) for key in keys]
        try:
            found = await asyncio.gather(*[answer for _, answer in answers], return_exceptions=True)
        except asyncio.CancelledError:
            self._give_up_all(answers)
            raise
        for failed in found:
            if isinstance(failed, BaseException):
                self._give_up_all(answers)
                raise failed
        return [claim for claim in found if not isinstance(claim, BaseException)]

    def _give_up_all(self, answers: Iterable[tuple[str, asyncio.Future[Claim | Busy]]]) -> None:
        for key, answer in answers:
            self.give_up(key, answer)

    def complete(self, key: str) -> asyncio.Future[None] | None:
        """Done when the key is; None if it is not claimed here: with a store that failed open it is not. Shared by
        many: not to be cancelled."""
        local = self._local.get(key)
        return None if local is None or local.fence is None else self._completions.add(local)

    async def _complete(self, done: Sequence[Local]) -> None:
        for local, ours in zip(done, await self._store.complete(self._held(done), self._ttl), strict=True):
            self._free(local)
            if not ours:
                logger.warning(
                    "idempotency key %r was lost while its handler ran: its effect may have happened twice", local.key
                )

    def release(self, key: str) -> None:
        """Give the key back, if it is ours, in the background: if that fails the lease ends by itself."""
        local = self._local.get(key)
        if local is not None and local.fence is not None:
            self._releases.submit(local).add_done_callback(lambda answer: self._released(local, answer))

    async def _release(self, releasing: Sequence[Local]) -> Sequence[bool]:
        return await self._store.release(self._held(releasing))

    def _released(self, local: Local, answer: asyncio.Future[bool]) -> None:
        if not answer.cancelled() and answer.exception() is not None:
            logger.warning("idempotency key %r could not be released: %s", local.key, answer.exception())
        self._free(local)

    async def close(self) -> None:
        """Answer what is under way, then let go."""
        self._closed = True
        await self._completions.end()
        for coalescer in (self._claims, self._releases):
            await coalescer.flush()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])

    def _held(self, ours: Sequence[Local]) -> list[Held]:
        owner = self._owner
        return [Held(local.key, owner, local.fence) for local in ours if local.fence is not None]

    def _free(self, local: Local) -> None:
        self._local.pop(local.key, None)
        if local.freed is not None and not local.freed.done():
            local.freed.set_result(None)

    def _keep_renewing(self) -> None:
        if self._timer is None and self._renewal is None and not self._closed:
            self._timer = self._clock.call_later(self._lease / 3, self._start_renewal)

    def _start_renewal(self) -> None:
        self._timer = None
        held = self._held(list(self._local.values()))
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

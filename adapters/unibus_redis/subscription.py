"""A consumer of one stream, as the seam has it: receive, settle, extend, close."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from unibus.driver import Clock, Delivery, Outcome, Source
from unibus.errors import DriverError, SettlementLost, UnsupportedCapability
from unibus_redis import scripts
from unibus_redis.calls import Calls
from unibus_redis.entries import Entry
from unibus_redis.holding import Holding
from unibus_redis.reading import Reading

_SURE = 0.2
"""The share of a lease that must be left for its holder to settle without asking the server whether it still holds."""


class StreamSubscription:
    """restore: declares the stream and its group anew. assure: makes sure, now and then, that publishers know it.
    leave: what else is to be done at the end.
    """

    def __init__(
        self,
        source: Source,
        stream: str,
        calls: Calls,
        holding: Holding,
        clock: Clock,
        *,
        restore: Callable[[], Awaitable[None]],
        assure: Callable[[], Awaitable[None]],
        leave: Callable[[], Awaitable[None]],
        life: float = 0.0,
    ) -> None:
        self.source = source
        self.stream = stream
        self.holding = holding
        self.inbox = holding.inbox
        self._calls = calls
        self._clock = clock
        self._leave_behind = leave
        self._lease = holding.lease
        self._lasting = not life
        self._closed = False
        self._reading = Reading(
            stream, holding, calls, clock, restore=restore, renew=self._renew_unreceived, assure=assure, life=life
        )  # fmt: skip

    def start(self) -> None:
        self._reading.start()

    # --- the seam -------------------------------------------------------------------------------------

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Delivery]:
        return await self.inbox.receive(max_messages, max_wait)

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        self.inbox.check_connected()
        if delay:
            raise UnsupportedCapability(f"settling with a delay of {delay} s: streams give back at once")
        ours, stale = self.inbox.begin(deliveries)
        try:
            lost = await self._settle(ours, outcome) if ours else 0
        except BaseException:
            self.inbox.failed(ours)
            raise
        self.holding.forget(ours)
        self.inbox.done(ours)
        stale += lost
        if stale:
            raise SettlementLost(f"{stale} of {len(deliveries)} deliveries of {self.source} were not ours any more",
                                 count=stale)  # fmt: skip

    async def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Implements LeaseExtender. Nothing is held for longer than the lease from now on."""
        self.inbox.check_connected()
        wanted = self.holding.ours(deliveries)
        if not wanted:
            return
        seconds = min(seconds, self._lease)
        expires = self._clock.monotonic() + seconds
        entries = [delivery.token for delivery in wanted]
        idle = int((self._lease - seconds) * 1000)
        arguments = [self._consumer, idle, *[entry.id for entry in entries]]
        lost = set(await self._calls.script(scripts.RENEW, [self.stream], arguments))
        gone = []
        for delivery, entry in zip(wanted, entries, strict=True):
            if entry.id in lost:
                gone.append(delivery)
            else:
                entry.expires = expires
        self.holding.lose(self.holding.ours(gone))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        handed_out = set(self.inbox.held)
        left = self.inbox.end()
        self.holding.close()
        await self._reading.stop()
        try:
            await self._leave(left, handed_out)
        except DriverError:
            return  # the server is away: it gives back what we held when the lease ends
        finally:
            await self._leave_behind()

    async def cut_off(self, reason: Exception) -> None:
        """For tests: nothing is given back, and nobody is told."""
        self._closed = True
        self.inbox.end(reason)
        self.holding.close()
        await self._reading.stop(politely=False)

    # --- settling and leaving -------------------------------------------------------------------------

    @property
    def _consumer(self) -> str:
        return self._reading.consumer

    async def _settle(self, deliveries: list[Delivery], outcome: Outcome) -> int:
        """How many were not ours any more."""
        if outcome is Outcome.NACK:
            if self.holding.ordered:
                self.holding.hand_out_again(deliveries)
                return 0
            return await self._give_back([(one.token.id, one.token.count) for one in deliveries])
        sure_until = self._clock.monotonic() + _SURE * self._lease
        sure = [delivery.token.id for delivery in deliveries if delivery.token.expires > sure_until]
        lost = await self._ack(sure) if sure else 0
        if len(sure) < len(deliveries):
            late = [delivery.token.id for delivery in deliveries if delivery.token.expires <= sure_until]
            lost += len(await self._calls.script(scripts.ACK, [self.stream], [self._consumer, *late]))
        return lost

    async def _ack(self, ids: Sequence[bytes]) -> int:
        """Their leases run, so that nobody can have claimed them: no need to ask for each."""
        acked = await self._calls.script(scripts.ACK_SURE, [self.stream], ids)
        lost = len(ids) - int(acked)
        self._reading.suspicious |= lost > 0
        return lost

    async def _give_back(self, counts: Iterable[tuple[bytes, int]]) -> int:
        flat = [word for pair in counts for word in pair]
        return len(await self._calls.script(scripts.GIVE_BACK, [self.stream], [self._consumer, *flat]))

    async def _leave(self, left: list[Delivery], handed_out: set[Delivery]) -> None:
        if not self._lasting:
            return
        entries = [(one.token, one in handed_out) for one in left if isinstance(one.token, Entry)]
        if entries and not self.holding.ordered:
            # What the core never saw was not delivered.
            await self._give_back([(entry.id, entry.count - (not seen)) for entry, seen in entries])
        await self._calls.script(scripts.LEAVE, [self.stream, self._reading.lock], [self._consumer])

    async def _renew_unreceived(self) -> None:
        """The core renews what it has received; what waits here is ours to renew."""
        waiting = self.holding.expiring(self._clock.monotonic() + self._lease * 2 / 3)
        if waiting:
            await self.extend(waiting, self._lease)

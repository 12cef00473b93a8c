"""A consumer of one stream: a task that reads and claims, and what it holds."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from unibus.driver import (
    Clock,
    Delivery,
    Disconnected,
    DriverEvent,
    Inbox,
    Lost,
    Outcome,
    Reconnected,
    Recreated,
    Source,
)
from unibus.errors import DestinationNotFound, DriverError, SettlementLost, UnsupportedCapability
from unibus_redis import scripts
from unibus_redis.calls import Calls
from unibus_redis.entries import Entry, again, delivery_of
from unibus_redis.options import BATCH, Options
from unibus_redis.registry import GROUPS, VERSION

_LONGEST_BLOCK = 2.0
_OWN_UNSEEN = 1000


class StreamSubscription:
    """life: seconds that the stream lives on without us, 0 for one that lasts.

    Of an ordered source one consumer is the active one; it holds a lock, and takes over all that its
    predecessor held, in order, before it reads on.
    """

    def __init__(
        self,
        source: Source,
        stream: str,
        life: float,
        calls: Calls,
        own_calls: Calls,
        options: Options,
        prefetch: int,
        notify: Callable[[DriverEvent], None],
        clock: Clock,
    ) -> None:
        self.source = source
        self.stream = stream
        self.inbox = Inbox(str(source), prefetch, clock)
        self.notify = notify
        self._life = life
        self._calls = calls
        self._own = own_calls
        self._lease = options.lease
        self._beat = min(options.lease / 4, _LONGEST_BLOCK)
        self._clock = clock
        self._consumer = uuid.uuid4().hex
        self._ordered = source.ordering == "key"
        self._by_id: dict[str, Delivery] = {}
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._client_id: int | None = None  # of a connection that stands; None: look what we missed
        self._reading = False
        self._claim_at = clock.monotonic()
        self._recover_from: str | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"unibus redis {self.stream}")

    # --- the seam -------------------------------------------------------------------------------------

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Delivery]:
        return await self.inbox.receive(max_messages, max_wait)

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        self.inbox.check_connected()
        if delay:
            raise UnsupportedCapability(f"settling with a delay of {delay} s: streams give back at once")
        ours, stale = self.inbox.begin(deliveries)
        try:
            lost = await self._settle(ours, outcome) if ours else set()
        except BaseException:
            self.inbox.failed(ours)
            raise
        self._forget(ours)
        self.inbox.done(ours)
        stale += len(lost)
        if stale:
            raise SettlementLost(f"{stale} of {len(deliveries)} deliveries of {self.source} were not ours any more",
                                 count=stale)  # fmt: skip

    async def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Implements LeaseExtender. Nothing is held for longer than the lease from now on."""
        self.inbox.check_connected()
        wanted = [
            delivery
            for delivery in deliveries
            if isinstance(delivery.token, Entry) and self._by_id.get(delivery.token.id) is delivery
        ]
        if not wanted:
            return
        seconds = min(seconds, self._lease)
        expires = self._clock.monotonic() + seconds
        ids = [delivery.token.id for delivery in wanted]
        idle = int((self._lease - seconds) * 1000)
        lost = set(await self._calls.script(scripts.RENEW, [self.stream], [self._consumer, idle, *ids]))
        gone = []
        for delivery in wanted:
            if not isinstance(delivery.token, Entry):
                continue  # lost meanwhile, and told
            if delivery.token.id.encode() in lost:
                gone.append(delivery)
            else:
                delivery.token.expires = expires
        self._lose(gone)

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        handed_out = list(self.inbox.held)
        left = self.inbox.end()
        await self._end_task()
        try:
            await self._leave(left, set(handed_out))
        except DriverError:
            return  # the server is away: it gives back what we held when the lease ends
        finally:
            await self._own.close()

    async def cut_off(self, reason: Exception) -> None:
        """Nothing is given back, and nobody is told."""
        self._closing = True
        self.inbox.end(reason)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._own.close()

    # --- settling and leaving -------------------------------------------------------------------------

    async def _settle(self, deliveries: list[Delivery], outcome: Outcome) -> set[bytes]:
        if outcome is not Outcome.NACK:
            ids = [delivery.token.id for delivery in deliveries]
            return set(await self._calls.script(scripts.ACK, [self.stream], [self._consumer, *ids]))
        if self._ordered:
            self._hand_out_again(deliveries)
            return set()
        return await self._give_back([(delivery.token.id, delivery.token.count) for delivery in deliveries])

    async def _give_back(self, counts: Iterable[tuple[str, int]]) -> set[bytes]:
        flat = [word for pair in counts for word in pair]
        return set(await self._calls.script(scripts.GIVE_BACK, [self.stream], [self._consumer, *flat]))

    def _forget(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            entry_id = delivery.token.id
            if self._by_id.get(entry_id) is delivery:
                del self._by_id[entry_id]

    def _hand_out_again(self, deliveries: Iterable[Delivery]) -> None:
        """In its place, before what came later."""
        fresh = [again(delivery) for delivery in deliveries]
        self.inbox.done(deliveries)
        for delivery in fresh:
            self._by_id[delivery.token.id] = delivery
        ordered = deque(sorted([*self.inbox.ready, *fresh], key=lambda delivery: delivery.token.place))
        self.inbox.ready.clear()
        self.inbox.put(ordered)

    async def _leave(self, left: list[Delivery], handed_out: set[Delivery]) -> None:
        if self._life:
            await self._calls.script(scripts.FORGET_GROUP, [self.stream, VERSION, GROUPS], [])
            return
        if left and not self._ordered:
            # What the core never saw was not delivered.
            await self._give_back([(one.token.id, one.token.count - (one not in handed_out)) for one in left])
        await self._calls.script(scripts.LEAVE, [self.stream, self._lock], [self._consumer])

    async def _end_task(self) -> None:
        """The server ends a read that waits; cancelling it could leave with us what it has just taken."""
        task = self._task
        if task is None:
            return
        for _ in range(20):
            if not self._reading or task.done():
                break
            try:
                await self._calls.command("CLIENT", "UNBLOCK", self._client_id or 0)
            except DriverError:
                break
            await asyncio.wait({task}, timeout=0.05)
        task.cancel()
        await asyncio.wait({task})

    # --- the task -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while not self._closing:
            try:
                await self._cycle()
                if failures:
                    self.notify(Reconnected())
                failures = 0
            except DestinationNotFound:
                await self._recreate()
            except DriverError as error:
                self._client_id = None
                if not failures:
                    self.notify(Disconnected(str(error)))
                failures += 1
                await self._clock.sleep(min(0.05 * 2**failures, 5.0))

    async def _cycle(self) -> None:
        self._expire()
        if self._client_id is None:
            await self._arrive()
        if self._ordered and not await self._is_active():
            await self._clock.sleep(self._beat)
            return
        await self._renew_ready()
        if self._life:
            await self._own.command("PEXPIRE", self.stream, int(self._life * 1000))
        if self._recover_from is not None or (not self._ordered and self._clock.monotonic() >= self._claim_at):
            await self._claim()
        if self.inbox.wanted <= 0:
            await self.inbox.wait_until_wanted(self._beat)
        elif self._recover_from is None:
            await self._read()

    async def _arrive(self) -> None:
        """On a new connection: take what an answer that was lost has left with us."""
        client_id = await self._own.command("CLIENT", "ID")
        pending = await self._own.command("XPENDING", self.stream, scripts.GROUP, "-", "+", _OWN_UNSEEN, self._consumer)
        unseen = [(entry_id, count) for entry_id, _, _, count in pending if entry_id.decode() not in self._by_id]
        started = self._clock.monotonic()
        for entry_id, count in unseen:
            await self._own.script(scripts.RENEW, [self.stream], [self._consumer, 0, entry_id])
            for found, fields in await self._own.command("XRANGE", self.stream, entry_id, entry_id):
                self._take(found, fields, count, started)
        self._client_id = client_id

    async def _is_active(self) -> bool:
        state = await self._own.script(scripts.ACTIVATE, [self._lock], [self._consumer, int(self._lease * 1000)])
        if state != 1:
            self._lose(list(self._by_id.values()))
        if state == 2:
            self._recover_from = "0-0"
        return bool(state)

    async def _claim(self) -> None:
        """Take over from consumers that have fallen silent, or, newly active, from whoever came before."""
        room = min(self.inbox.wanted, BATCH.messages)
        if room <= 0:
            return
        idle = 0 if self._ordered else int(self._lease * 1000)
        started = self._clock.monotonic()
        following, entries, counts = await self._own.script(
            scripts.CLAIM, [self.stream], [self._consumer, idle, self._recover_from or "0-0", room]
        )
        for (entry_id, fields), count in zip(entries, counts, strict=True):
            self._take(entry_id, fields, count, started)
        if self._ordered:
            self._recover_from = None if following == b"0-0" else following.decode()
        elif len(entries) < room:
            self._claim_at = self._clock.monotonic() + self._beat

    async def _read(self) -> None:
        count = min(self.inbox.wanted, BATCH.messages)
        started = self._clock.monotonic()
        self._reading = True
        try:
            if self._closing:
                return
            reply = await self._own.command(
                "XREADGROUP", "GROUP", scripts.GROUP, self._consumer, "COUNT", count, "BLOCK", int(self._beat * 1000),
                "STREAMS", self.stream, ">", waits=self._beat,
            )  # fmt: skip
        finally:
            self._reading = False
        for _, entries in reply or ():
            for entry_id, fields in entries:
                self._take(entry_id, fields, 1, started)

    def _take(self, entry_id: bytes, fields: Sequence[bytes] | None, count: int, started: float) -> None:
        if not fields:
            return  # trimmed while it was pending
        name = entry_id.decode()
        if name in self._by_id:
            self._lose([self._by_id[name]])
        entry = Entry(name, fields, count, started + self._lease)
        delivery = self._by_id[name] = delivery_of(entry, self.source.name)
        self.inbox.put([delivery])

    # --- what is not ours any more --------------------------------------------------------------------

    def _expire(self) -> None:
        now = self._clock.monotonic()
        gone = [one for one in self._by_id.values() if one.token.expires <= now]
        if gone and self._ordered:  # what comes after it must not be handled first
            gone = list(self._by_id.values())
            self._recover_from = "0-0"
        self._lose(gone)

    def _lose(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if isinstance(delivery.token, Entry):
                self._by_id.pop(delivery.token.id, None)
        told = self.inbox.lose(deliveries)
        if told:
            self.notify(Lost(told))

    async def _renew_ready(self) -> None:
        """The core renews what it has received; what waits here is ours to renew."""
        soon = self._clock.monotonic() + self._lease * 2 / 3
        waiting = [one for one in self.inbox.ready if isinstance(one.token, Entry) and one.token.expires < soon]
        if waiting:
            await self.extend(waiting, self._lease)

    async def _recreate(self) -> None:
        """Somebody deleted the stream or the group: begin with all that is there since."""
        self._lose(list(self._by_id.values()))
        try:
            await self._own.command("XGROUP", "CREATE", self.stream, scripts.GROUP, "0", "MKSTREAM")
        except DriverError:
            await self._clock.sleep(0.2)  # another consumer was faster, or the server is away
        self.notify(Recreated())

    @property
    def _lock(self) -> str:
        return f"unibus.active.{self.stream}"

"""A consumer: one fetch loop over a subscription, lanes that handle, and what they hold meanwhile.

Invariants: buffered + unsettled <= prefetch; a delivery is settled only after its handler, or after
its re-send or dead letter was confirmed; what was lost is settled by nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from unibus import lanes
from unibus.buffer import Buffer
from unibus.cancellation import asked_to_end
from unibus.draining import drain
from unibus.driver import (
    Blocked,
    Delivery,
    Disconnected,
    DriverEvent,
    Gap,
    LeaseExtender,
    Lost,
    Narrowing,
    Outcome,
    Reconnected,
    Recreated,
    Revoking,
    Subscription,
    Unblocked,
)  # fmt: skip
from unibus.keylines import KeyLines
from unibus.lane import Lane
from unibus.leases import Renewal
from unibus.overdue import Overdue
from unibus.plan import Folded, Plan, Surface
from unibus.rounds import Rounds
from unibus.settler import Settler
from unibus.suspects import Suspects
from unibus.verdicts import Verdicts
from unibus.waiting import Waiting

logger = logging.getLogger("unibus.consumer")

RECEIVE_WAIT = 10.0
"""Seconds that one receive waits for a message; only a bound, since stopping cancels it."""
RED_AFTER_RESTART = 60.0
"""Seconds that health stays red after a lane ended by itself."""


class Consumer:
    """Runs one handler. Started and stopped once."""

    def __init__(self, plan: Plan, folded: Folded, bus: Surface) -> None:
        self.plan = plan
        self.folded = folded
        self.bus = bus
        self.clock = bus.clock
        self.stats = folded.stats
        self.prefetch = plan.prefetch
        self.buffer = Buffer(self.clock, self.note_change)
        self.rounds = Rounds()
        self.held: dict[Delivery, None] = {}  # in the order of arrival
        self.keys = KeyLines() if plan.ordered else None
        self.waiting = Waiting(self.clock, self.resume)
        self.verdicts = Verdicts(self)
        self.suspects = Suspects(self)
        self.lanes: list[Lane] = []
        self.stopping = False
        self.disconnected = self.blocked = False
        self.progress_at = self.clock.monotonic()
        self.red_until = 0.0
        self.subscription: Subscription | None = None
        self.settler: Settler
        self._fetcher: asyncio.Task[None] | None = None
        self._awaiting_change: list[asyncio.Future[None]] = []
        self._renewal: Renewal | None = None
        self._overdue: Overdue | None = None

    # --- start ------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Subscribe; then fetch and handle in the background."""
        capabilities = self.bus.capabilities
        self.subscription = await self.bus.driver.subscribe(
            self.plan.source, prefetch=self.plan.prefetch, notify=self._on_event
        )
        if isinstance(self.subscription, Narrowing):
            await self.subscription.hold_at_most(1 if self.suspects.single_only else self.prefetch)
        self.settler = Settler(
            self.subscription, capabilities.settle, self.clock, self._on_settled, self.buffer.is_paused
        )  # fmt: skip
        for _ in range(self.plan.concurrency):
            lane = Lane()
            self.lanes.append(lane)
            self._run(lane)
        self._run_fetcher()
        if capabilities.lease is not None and isinstance(self.subscription, LeaseExtender):
            self._renewal = Renewal(self.subscription, self.held, capabilities.lease, self.clock)
        if capabilities.hold is not None:
            self._overdue = Overdue(self, capabilities.hold)

    def _run(self, lane: Lane) -> None:
        work = lanes.run_batches if self.plan.signature.batch else lanes.run_singles
        lane.task = asyncio.get_running_loop().create_task(work(self, lane), name=f"unibus lane {self.plan.name}")
        lane.task.add_done_callback(lambda task: self._lane_ended(lane, task))

    def _lane_ended(self, lane: Lane, task: asyncio.Task[None]) -> None:
        """A lane that ended by itself is started again: the consumer must not fall silent."""
        error = None if task.cancelled() else task.exception()
        if self.stopping:
            if error is not None:
                logger.error("a lane of %s failed while it stopped", self.plan.name, exc_info=error)
            return
        logger.error("a lane of %s ended by itself and is started again", self.plan.name, exc_info=error)
        self.stats.lane_restarts += 1
        self.red_until = self.clock.monotonic() + RED_AFTER_RESTART
        self.let_go(lane.held)
        lane.held, lane.reason, lane.cancelled_by_others = (), None, False
        self._run(lane)

    def _run_fetcher(self) -> None:
        self._fetcher = asyncio.get_running_loop().create_task(self._fetch(), name=f"unibus fetch {self.plan.name}")
        self._fetcher.add_done_callback(self._fetcher_ended)

    def _fetcher_ended(self, task: asyncio.Task[None]) -> None:
        if self.stopping:
            return
        error = None if task.cancelled() else task.exception()
        logger.error("the fetch loop of %s ended by itself and is started again", self.plan.name, exc_info=error)
        self.stats.lane_restarts += 1
        self.red_until = self.clock.monotonic() + RED_AFTER_RESTART
        self.clock.call_later(1.0, self._run_fetcher)

    # --- fetching ---------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        assert self.subscription is not None
        limit = self.bus.capabilities.receive.messages
        wait = 0.1
        while not self.stopping:
            free = self.prefetch - len(self.held)
            # Fetching as soon as one place is free would make batches shrink to a message or two.
            worth = max(1, min(limit, self.prefetch // 4))
            if free < (worth if self.buffer.items else 1) or (self.suspects.single_only and self.held):
                await self.change()
                continue
            if (pause := self.verdicts.paused()) > 0:
                await self.clock.sleep(pause)
                continue
            most = 1 if self.suspects.single_only else min(free, limit)
            try:
                batch = await self.subscription.receive(most, RECEIVE_WAIT)
            except (Exception, asyncio.CancelledError) as error:
                if asked_to_end():
                    raise
                logger.warning("%s cannot receive, again in %.1f s: %r", self.plan.name, wait, error)
                await self.clock.sleep(wait)
                wait = min(wait * 2, 10.0)
                continue
            wait = 0.1
            if batch:
                await self._accept(batch)

    async def _accept(self, batch: Sequence[Delivery]) -> None:
        before = set(self.held) if self.suspects.any(batch) else None
        batch = self._take_in(batch)
        if before is not None:
            try:
                batch = await self.suspects.sort(batch)
            except Exception:
                self._disown({delivery for delivery in self.held if delivery not in before})
                raise
            batch = [delivery for delivery in batch if delivery in self.held]
        self.admit(batch)

    def _disown(self, deliveries: set[Delivery]) -> None:
        """Give back what no lane has in hand: held and handed to nobody, its lease would be renewed for ever."""
        running = self.running()
        self.withdraw(deliveries - running)
        self.give_back([delivery for delivery in self.held if delivery in deliveries and delivery not in running])

    def _take_in(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        self.held.update(dict.fromkeys(batch))
        if len(self.held) == len(batch):
            self.progress_at = self.clock.monotonic()  # a backlog begins now, not when we fell idle
        self.stats.received += len(batch)
        return self.verdicts.without_unmatched(batch)

    async def receive_at_once(self) -> list[Delivery]:
        """What the broker has pushed already. For the fetch loop, which alone may receive."""
        assert self.subscription is not None
        taken: list[Delivery] = []
        while batch := await self.subscription.receive(self.bus.capabilities.receive.messages, 0.0):
            taken += self._take_in(batch)
        return taken

    def admit(self, batch: Sequence[Delivery]) -> None:
        """Hand deliveries to the lanes, one of a key at a time where the address is ordered."""
        if self.keys is not None:
            batch = self.keys.admit(batch)
        self.buffer.put(batch)

    def resume(self, delivery: Delivery) -> None:
        """Its waiting is over."""
        self.buffer.put_first(delivery)

    # --- settling ---------------------------------------------------------------------------------

    def finished(self, delivery: Delivery) -> None:
        """Nothing more will be done with it here: the next of its key may go."""
        self.verdicts.forget(delivery)
        if self.keys is not None and (following := self.keys.done(delivery)) is not None:
            self.buffer.put((following,))

    def give_back(self, deliveries: Collection[Delivery]) -> None:
        if deliveries:
            self.stats.given_back += len(deliveries)
            self.settler.settle(list(deliveries), Outcome.NACK)

    def let_go(self, deliveries: Collection[Delivery]) -> None:
        """Give back what a lane had in hand and, of an ordered address, all that stands behind it."""
        ours = [delivery for delivery in deliveries if delivery in self.held]
        behind = self._behind(deliveries)
        for delivery in deliveries:
            self.finished(delivery)
        self.give_back([*ours, *behind])

    def _behind(self, deliveries: Collection[Delivery]) -> list[Delivery]:
        """Take out what we hold of the same keys: handled now, it would overtake them."""
        if self.keys is None:
            return []
        keys = {delivery.key for delivery in deliveries} - {None}
        running = self.running()
        return self.withdraw({d for d in self.held if d.key in keys and d not in running and d not in deliveries})

    def _on_settled(self, deliveries: Sequence[Delivery], lost: int) -> None:
        held = self.held
        for delivery in deliveries:
            held.pop(delivery, None)
        self.stats.settlements_lost += lost
        self.progress_at = self.clock.monotonic()
        self.note_change()

    async def change(self) -> None:
        """Wait until something was settled, lost, or the consumer stops."""
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaiting_change.append(changed)
        await changed

    def note_change(self) -> None:
        for changed in self._awaiting_change:
            if not changed.done():
                changed.set_result(None)
        self._awaiting_change.clear()

    # --- events of the driver -----------------------------------------------------------------------

    def _on_event(self, event: DriverEvent) -> None:
        match event:
            case Lost(deliveries):
                self._lose(deliveries)
            case Revoking(deliveries):
                self.give_back(self.withdraw({d for d in deliveries if d in self.held}))
            case Disconnected(reason):
                self.disconnected = True
                logger.warning("%s is disconnected: %s", self.plan.name, reason or "no reason given")
            case Reconnected():
                self.disconnected = False
            case Blocked():
                self.blocked = True
            case Unblocked():
                self.blocked = False
            case Gap(count):
                self.stats.gaps += 1
                logger.warning("%s may have missed %s messages", self.plan.name, "some" if count is None else count)
            case Recreated():
                self.stats.gaps += 1
                logger.warning("%s was gone from the broker and was made anew: its backlog may be lost", self.plan.name)

    def _lose(self, deliveries: Sequence[Delivery]) -> None:
        gone = {delivery for delivery in deliveries if delivery in self.held}
        self.stats.lost += len(gone)
        self.suspects.lost(gone)
        for lane in self.lanes:
            if lane.reason is None and any(delivery in gone for delivery in lane.held):
                lane.cancel("lost")
        self.withdraw(gone)
        self.give_back(self._behind(gone))
        for delivery in gone:
            self.held.pop(delivery, None)
        self.note_change()

    def running(self) -> set[Delivery]:
        """What lanes have in hand."""
        return {delivery for lane in self.lanes for delivery in lane.held}

    def withdraw(self, deliveries: Collection[Delivery]) -> list[Delivery]:
        """Take deliveries that no lane has in hand out of buffer, lines and waiting; returns those."""
        if not deliveries:
            return []
        queued = self.buffer.take_out(deliveries)
        waited = [delivery for delivery in deliveries if self.waiting.remove(delivery)]
        lined = self.keys.remove(deliveries) if self.keys is not None else []
        for delivery in (*queued, *waited):
            self.finished(delivery)
        for delivery in lined:
            self.verdicts.forget(delivery)
        order = {delivery: place for place, delivery in enumerate(self.held)}
        return sorted((*queued, *waited, *lined), key=lambda delivery: order.get(delivery, 0))

    # --- stop -------------------------------------------------------------------------------------

    async def stop(self, over: asyncio.Future[None]) -> bool:
        """Drain until `over`, then let go. Returns whether every handler ended by itself."""
        if self.subscription is None:
            return True
        self.stopping = True
        if self._overdue is not None:
            self._overdue.stop()
        if self._fetcher is not None:
            self._fetcher.cancel()
            await asyncio.wait([self._fetcher])
        try:
            return await drain(self, over)
        finally:
            self.verdicts.forget_all()
            if self._renewal is not None:
                self._renewal.stop()

    # --- health -----------------------------------------------------------------------------------

    def _awaits_turns(self) -> bool:
        """Whether all that could be handled has a turn that is to come: slow on purpose."""
        waiting = [delivery for delivery in self.held if delivery in self.waiting]
        at_work = self.buffer.items or any(lane.held for lane in self.lanes)
        return bool(waiting) and not at_work and all(map(self.verdicts.has_turn, waiting))

    def complaints(self, stall_after: float) -> list[str]:
        """Why this consumer is not well."""
        now, name = self.clock.monotonic(), self.plan.name
        found = []
        if self.disconnected:
            found.append(f"{name}: the broker is away")
        if self.blocked:
            found.append(f"{name}: the broker takes no messages")
        if now < self.red_until:
            found.append(f"{name}: a lane ended by itself")
        if self.verdicts.failing_sends:
            found.append(f"{name}: {self.verdicts.failing_sends} re-sends or dead letters in a row failed")
        overdue = now - self.progress_at > max(stall_after, (self.plan.timeout or 0.0) * 1.5)
        if self.held and overdue and not self._awaits_turns():
            found.append(
                f"{name}: no progress for {now - self.progress_at:.0f} s with {len(self.held)} messages in hand"
            )
        return found

"""Replay and purge: letters are received, and those that are meant leave.

A replay is sent and confirmed, then the letter is acked: a crash in between duplicates, the other order would lose.
What stays is held and given back at the end. Where that cannot be, since settlements are a position in a log, or the
hand is full, or was for long enough, it is written to the end of the queue anew, confirmed, and acked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from unibus import attributes as names
from unibus.dead_letters.hand import Hand
from unibus.dead_letters.judging import Chosen, Judge, is_of_run
from unibus.dead_letters.looking import HELD, PATIENCE, lying
from unibus.dead_letters.pace import Pace
from unibus.dead_letters.places import Place
from unibus.dead_letters.report import Report
from unibus.driver import Delivery, Outbound, Source, TopicSubscription
from unibus.errors import DestinationNotFound, MessageTooLarge, Rejected
from unibus.session import Session

_AHEAD = 100
"""Letters that are received beyond those that are held."""


class Clearing:
    """One run. progress: called after each step, with the report as it stands."""

    def __init__(
        self,
        session: Session,
        place: Place,
        judge: Judge,
        pace: Pace,
        report: Report,
        progress: Callable[[Report], None],
    ) -> None:
        self._session = session
        self._place = place
        self._judge = judge
        self._pace = pace
        self._report = report
        self._progress = progress
        self._run = session.envelopes.stamps.next_id()
        self._capabilities = session.capabilities
        self._kept: dict[Delivery, None] = {}
        self._returned: dict[Delivery, None] = {}
        self._acted_on: dict[str, int] = {}  # by id: what may come again although it was dealt with; 1 if it was done
        self._skipped = 0
        self._kept_since: float | None = None
        self._held_at_most = HELD

    async def run(self) -> None:
        """Raises DestinationNotFound, and what receiving and writing anew raise; the report is right all the same."""
        report, driver = self._report, self._session.driver
        report.total = lying(await driver.depth(self._place.queue))
        if not report.total:
            return
        prefetch = self._pace.within(self._capabilities.hold, HELD + _AHEAD)
        self._held_at_most = max(1, prefetch * HELD // (HELD + _AHEAD))
        async with Hand(self._session, self._place.queue, prefetch) as hand:
            try:
                await self._work(hand)
            except asyncio.CancelledError:
                await _finished(self._tidy_up(hand))
                raise
            await self._tidy_up(hand)

    async def _work(self, hand: Hand) -> None:
        report = self._report
        while not self._is_over(hand):
            # No more than there were at the start: what comes while we work was not asked for.
            batch = await hand.receive(min(_AHEAD, self._left(hand)), PATIENCE)
            if not batch:
                report.stopped = f"{self._left(hand)} did not come: somebody else has them in hand"
                return
            size = self._pace.portion(len(batch))
            for start in range(0, len(batch), size):
                if self._is_over(hand):
                    break  # the rest is later in the log than all that was settled, or is given back
                chosen = await self._sort(hand, batch[start : start + size])
                await self._pace.take(len(chosen))
                # A replay that is confirmed is acked, too, whoever cancels us.
                await _finished(self._carry_out(hand, [one for one in chosen if one.delivery in hand.held]))
                self._progress(report)

    def _left(self, hand: Hand) -> int:
        """How many are still to come: what was taken away after we had seen it comes again."""
        uncounted = self._skipped + sum(one not in hand.held for one in self._returned)
        return self._report.total + hand.lost - uncounted - self._report.seen

    def _is_over(self, hand: Hand) -> bool:
        return bool(self._report.stopped) or self._left(hand) <= 0 or self._judge.has_enough

    async def _sort(self, hand: Hand, deliveries: Sequence[Delivery]) -> list[Chosen]:
        chosen = []
        for delivery in deliveries:
            if self._judge.has_enough:
                break
            if delivery not in hand.held:
                self._skipped += 1  # lost before we had seen it
            elif is_of_run(delivery, self._run):
                self._returned[delivery] = None
            elif delivery.message_id in self._acted_on:
                self._skipped += 1
                self._report.unsettled += await hand.ack([delivery]) - self._acted_on[delivery.message_id]
            elif (one := await self._judge.judge(delivery)) is not None:
                chosen.append(one)
            else:
                self._keep(delivery)
        return chosen

    def _keep(self, delivery: Delivery) -> None:
        self._kept[delivery] = None
        if self._kept_since is None:
            self._kept_since = self._session.clock.monotonic()

    # --- leaving ------------------------------------------------------------------------------------

    async def _carry_out(self, hand: Hand, chosen: Sequence[Chosen]) -> None:
        by_destination: dict[Source | None, list[Chosen]] = {}
        for one in chosen:
            by_destination.setdefault(one.destination, []).append(one)
        leaving = by_destination.pop(None, [])
        for confirmed in await asyncio.gather(*[self._replay(*item) for item in _known(by_destination)]):
            leaving += confirmed
        # As they came: a position in a log moves on without holes.
        gone = {one.delivery for one in leaving}
        self._report.done += len(leaving)
        self._report.unsettled += len(leaving)
        lost = await hand.ack([one.delivery for one in chosen if one.delivery in gone])
        self._report.unsettled -= len(leaving) - lost
        if lost:  # nobody says which; those that come again are only acked
            self._acted_on |= dict.fromkeys([one.letter.id for one in leaving], 1)
        if self._must_write_anew(hand):
            await self._write_anew(hand, self._kept)
        if len(self._returned) >= self._held_at_most:
            await self._write_anew(hand, self._returned)

    async def _replay(self, destination: Source, letters: Sequence[Chosen]) -> list[Chosen]:
        """Returns those that are confirmed."""
        sender = self._session.sender_for(destination)
        errors = await sender.send_chunk([self._afresh(one, destination) for one in letters])
        for index, error in errors.items():
            one = letters[index]
            self._report.fail(one.letter.id, f"{type(error).__name__}: {error}")
            self._keep(one.delivery)
            if not isinstance(error, (Rejected, MessageTooLarge, DestinationNotFound)):
                self._report.stopped = f"the broker did not confirm: {error}"
        return [one for index, one in enumerate(letters) if index not in errors]

    def _afresh(self, one: Chosen, destination: Source) -> Outbound:
        """The message as it was first sent, but for the count of its replays."""
        delivery = one.delivery
        attributes = names.without_own(delivery.attributes)
        attributes[names.REPLAYS] = str(one.letter.replays + 1)
        attributes[names.RUN] = self._run
        topic = self._topic_of(delivery) if isinstance(destination, TopicSubscription) else None
        return Outbound(
            delivery.body, attributes, delivery.headers, delivery.key, delivery.message_id, topic=topic
        )  # fmt: skip

    def _topic_of(self, delivery: Delivery) -> str | None:
        """Where it was published; what was sent to a queue has that for an address."""
        return None if delivery.address == self._place.queue.name else delivery.address

    # --- staying ------------------------------------------------------------------------------------

    def _must_write_anew(self, hand: Hand) -> bool:
        if not self._kept:
            return False
        hold, since = self._capabilities.hold, self._kept_since
        late = hold is not None and since is not None and self._session.clock.monotonic() - since > hold
        return self._capabilities.positional or late or len(self._kept) + len(self._returned) >= self._held_at_most

    async def _tidy_up(self, hand: Hand) -> None:
        """The position moves on over all that we have had. Where there is none, closing gives it back."""
        if self._capabilities.positional:
            await self._write_anew(hand, self._kept)
            await self._write_anew(hand, self._returned)

    async def _write_anew(self, hand: Hand, staying: dict[Delivery, None]) -> None:
        """Raises the error of one that could not be: it stays where it is, and the run ends."""
        deliveries = [delivery for delivery in staying if delivery in hand.held]
        if staying is self._returned:
            self._skipped += len(staying) - len(deliveries)
        staying.clear()
        self._kept_since = None if staying is self._kept else self._kept_since
        if not deliveries:
            return
        sender = self._session.sender_for(self._place.queue)
        errors = await sender.send_chunk([self._as_it_lies(one, {names.RUN: self._run}) for one in deliveries])
        full = [index for index, error in errors.items() if isinstance(error, MessageTooLarge)]
        if full:  # no room for the mark: as they are they fit
            bare = await sender.send_chunk([self._as_it_lies(deliveries[index], {}) for index in full])
            errors = {index: error for index, error in errors.items() if index not in full}
            errors |= {full[place]: error for place, error in bare.items()}
        written = [one for index, one in enumerate(deliveries) if index not in errors]
        if await hand.ack(written):
            self._acted_on |= dict.fromkeys([one.message_id for one in written], 0)
        for error in errors.values():
            raise error

    def _as_it_lies(self, delivery: Delivery, marked: dict[str, str]) -> Outbound:
        attributes = {**delivery.attributes, **marked}
        return Outbound(
            delivery.body, attributes, delivery.headers, delivery.key, delivery.message_id,
            topic=self._topic_of(delivery),
        )  # fmt: skip


def _known(by_destination: dict[Source | None, list[Chosen]]) -> list[tuple[Source, list[Chosen]]]:
    return [(source, letters) for source, letters in by_destination.items() if source is not None]


async def _finished(work: Coroutine[Any, Any, None]) -> None:
    """Let it end, even if we are cancelled meanwhile."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise

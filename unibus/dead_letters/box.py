"""The dead letters of one consumer: looked at, replayed, purged. Made by `Bus.dead_letters`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing

from unibus.dead_letters.clearing import Clearing
from unibus.dead_letters.conditions import Where, all_of, any_id
from unibus.dead_letters.judging import Judge, Selection
from unibus.dead_letters.letter import Letter
from unibus.dead_letters.looking import browser, look_through
from unibus.dead_letters.pace import Pace
from unibus.dead_letters.places import Destinations, Places
from unibus.dead_letters.report import Report
from unibus.driver import Depth, Queue
from unibus.errors import ConfigurationError
from unibus.session import Session

Progress = Callable[[Report], None]


def _no_progress(report: Report) -> None:
    """Nobody wants to know."""


class DeadLetters:
    """Usable while the bus is open, and while consumers run. One run at a time: of two at once each sees a part.

    `where` is a condition or several, which must all hold: texts such as `"error=ConnectionError"`, `"age>2h"`,
    `"attempts>=4"`, `"source=orders"`, `"text~timeout"`, or functions of a Letter. Methods raise ConfigurationError
    for a condition that cannot be, DestinationNotFound if there is no such queue.
    """

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self._places = Places(session.addresses, session.plans)
        self._place = self._places.find(name)

    @property
    def queue(self) -> Queue:
        """Where they lie."""
        return self._place.queue

    @property
    def can_browse(self) -> bool:
        """Whether looking leaves no trace. Else letters are received, held and given back: their count of deliveries
        and their order may change, and for that moment nobody else gets them; the first thousand are looked at."""
        return browser(self._session.driver) is not None

    async def depth(self) -> Depth:
        """How many there are, of whomever."""
        return await self._session.driver.depth(self._place.queue)

    async def browse(self, where: Where = None, *, ids: Sequence[str] = (), limit: int | None = 100) -> list[Letter]:
        """The first that are meant, in the order of the queue, bodies included; None is all. Nothing leaves."""
        selection = _selection(where, ids, limit)
        judge = Judge(self._place, selection, None, Report(), self._session.clock)
        found: list[Letter] = []
        looking = look_through(self._session, self._place.queue)
        async with aclosing(looking):
            async for delivery in looking:
                if judge.has_enough:
                    break
                if (one := await judge.judge(delivery)) is not None:
                    found.append(one.letter)
        return found

    async def replay(
        self,
        where: Where = None,
        *,
        ids: Sequence[str] = (),
        limit: int | None = None,
        rate: float | None = None,
        force: bool = False,
        dry_run: bool = False,
        progress: Progress = _no_progress,
    ) -> Report:
        """Send letters back to the consumer whose they were (a group's to that group alone), attempts afresh, body,
        headers, key and id as they were; confirmed before they leave the dead letters.

        rate: letters a second. force: those, too, that were replayed three times already. ids: only these, whole or
        by their ends. progress: called after each step. What lay there when it began is looked at once: what fails
        again meanwhile stays. Raises what the broker raises when it goes away; what was replayed by then is counted
        in the report that `progress` was given.
        """
        selection = _selection(where, ids, limit, force)
        report = Report(dry_run=dry_run)
        destinations = Destinations(self._place, self._places, self._session.driver)
        judge = Judge(self._place, selection, destinations, report, self._session.clock)
        return await self._run(judge, Pace(rate, self._session.clock), report, progress)

    async def purge(
        self,
        where: Where = None,
        *,
        ids: Sequence[str] = (),
        limit: int | None = None,
        dry_run: bool = False,
        progress: Progress = _no_progress,
    ) -> Report:
        """Delete letters for good. Parameters and errors as for `replay`."""
        report = Report(dry_run=dry_run)
        judge = Judge(self._place, _selection(where, ids, limit), None, report, self._session.clock)
        return await self._run(judge, Pace(None, self._session.clock), report, progress)

    async def _run(self, judge: Judge, pace: Pace, report: Report, progress: Progress) -> Report:
        if report.dry_run:
            await self._rehearse(judge, report, progress)
        else:
            await Clearing(self._session, self._place, judge, pace, report, progress).run()
        progress(report)
        return report

    async def _rehearse(self, judge: Judge, report: Report, progress: Progress) -> None:
        depth = await self.depth()
        report.total = depth.ready + (depth.in_flight or 0)
        looking = look_through(self._session, self._place.queue)
        async with aclosing(looking):
            async for delivery in looking:
                if judge.has_enough or report.seen >= report.total:
                    return
                if await judge.judge(delivery) is not None:
                    report.done += 1
                progress(report)
        if report.seen < report.total:
            report.stopped = f"{report.total - report.seen} could not be looked at: they are in somebody's hands"
            if not self.can_browse:
                report.stopped += ", or more than can be held"


def _selection(where: Where, ids: Sequence[str], limit: int | None, force: bool = False) -> Selection:
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit={limit}: say at least 1, or None for all")
    wanted = all_of(where)
    if ids:
        of_ids = any_id(ids)
        return Selection(lambda letter: of_ids(letter) and wanted(letter), limit, force)
    return Selection(wanted, limit, force)

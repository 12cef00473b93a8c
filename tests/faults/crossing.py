"""All hops of one server, side by side: victims that die at their steps, one process that handles the rest, and what
the broker has left in the end."""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.brokers import broker
from tests.faults.books import Books
from tests.faults.hopping import Hopping
from tests.faults.hops import DIED, Death, Hop, Left, Point, allowed, complaints, repeated, unsettled_of
from tests.faults.journal import Entry, Journal, Reading
from tests.faults.load import message_id, payload
from tests.faults.matrix import Matrix, Row
from tests.faults.processes import Processes, Worker
from tests.faults.server import Server, taken
from unibus import Bus, Queue
from unibus.driver import Source, TopicSubscription, Topology

SENT = 12
"""Messages of a hop that its victim may have in hand, and which of them fails."""
FAILS = 5
LATER = 4
"""Messages that are sent when the victim is dead."""
AT_ONCE = 6
"""Victims that live at once."""
PATIENCE = 60.0
MOVES = 1.5
"""Seconds that the moves of a delayed message may add to its delay."""
LOOK_EVERY = 0.05


@dataclass(frozen=True)
class Site:
    """Where hops are crossed. watch: sees to the steps that are its server's own. options: more for its URL."""

    server: Server
    points: Sequence[Point]
    watch: str = ""
    options: str = ""


def source_of(hop: Hop) -> Source:
    return TopicSubscription((hop.name,), hop.name) if hop.group else Queue(hop.name)


class Crossing:
    """One run of some points of a site.

    After `cross`: `found` has what is wrong at each, `unwell` what is wrong with the process that handled the rest.
    """

    def __init__(self, site: Site, points: Sequence[Point], folder: Path, matrix: Matrix) -> None:
        self.found: dict[Point, list[str]] = {}
        self.unwell: list[str] = []
        self._site = site
        self._broker = broker(site.server.name)
        self._url = site.server.url(self._broker) + site.options
        stem = f"hops.{uuid.uuid4().hex[:6]}"
        self._hops = {point: _hop(f"{stem}.{place}", point) for place, point in enumerate(points)}
        self._matrix = matrix
        self._processes = Processes(folder)
        self._reading = Reading(folder)
        self._sent = Journal(folder / "sent.journal")
        self._died: dict[Point, Worker] = {}
        self._rest: Worker

    async def cross(self) -> None:
        began = time.monotonic()
        try:
            async with Bus(self._url) as bus:
                await bus.driver.declare(Topology(create=tuple(self._sources())))
                await self._send(bus, range(SENT))
                await self._let_die()
                await self._handle_rest(bus)
                await self._processes.stop()
                left = await asyncio.gather(*[self._left(bus, hop) for hop in self._hops.values()])
        finally:
            await self._processes.kill_all()
        self._reading.catch_up()
        self.unwell = self._rest.complaints(self._reading.entries)
        for (point, hop), found in zip(self._hops.items(), left, strict=True):
            self._judge(point, hop, found, time.monotonic() - began)

    def _sources(self) -> Iterator[Source]:
        for hop in self._hops.values():
            yield (source := source_of(hop))
            yield source.dead_letters

    async def _send(self, bus: Bus, numbers: Sequence[int]) -> None:
        await asyncio.gather(*[self._send_to(bus, hop, numbers) for hop in self._hops.values()])

    async def _send_to(self, bus: Bus, hop: Hop, numbers: Sequence[int]) -> None:
        send = bus.publisher(hop.name).publish if hop.group else bus.producer(hop.name).send
        for number in numbers:
            one, began = message_id(hop.name, number), time.monotonic()
            await send(payload(one), id=one)
            self._sent.write("confirmed", one, began=began)

    async def _let_die(self) -> None:
        places = asyncio.Semaphore(AT_ONCE)

        async def let_die(place: int, point: Point) -> None:
            async with places:
                worker = await self._start(f"{place:02d}", [self._hops[point]], point)
                if not await worker.ended(PATIENCE):
                    await worker.kill()  # it would take part in what follows
                self._died[point] = worker

        await asyncio.gather(*[let_die(place, point) for place, point in enumerate(self._hops)])

    async def _handle_rest(self, bus: Bus) -> None:
        """By one process for all hops, until nothing moves any more."""
        rest = self._rest = await self._start("rest", list(self._hops.values()))
        await self._until(lambda: any(entry.pid == rest.pid for entry in self._reading.by_kind("ready")))
        await self._send(bus, range(SENT, SENT + LATER))
        await self._until(self._all_done)
        await self._until(self._is_quiet)

    async def _start(self, name: str, hops: list[Hop], point: Point | None = None) -> Worker:
        task = Hopping(
            url=self._url, journal=self._processes.journal(name), hops=hops,
            step=point.step if point is not None else None, watch=self._site.watch,
        )  # fmt: skip
        return await self._processes.start(name, "tests.faults.hopping", task)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Or until nothing has moved for too long: the judge will tell."""
        entries, moved_at = -1, time.monotonic()
        while True:
            self._reading.catch_up()
            if len(self._reading.entries) > entries:
                entries, moved_at = len(self._reading.entries), time.monotonic()
            if condition() or time.monotonic() - moved_at > PATIENCE / 2:
                return
            await asyncio.sleep(LOOK_EVERY)

    def _all_done(self) -> bool:
        """What always fails has run once more at least, if it was not settled; whether it arrived is seen later."""
        ended = self._reading.ids("ended") | {h.message for h in self._hops.values() if h.verdict == "dead"}
        return self._reading.ids("confirmed") <= ended

    def _is_quiet(self) -> bool:
        """For so long that nothing can be on its way any more."""
        last = max((entry.at for entry in self._reading.by_kind("begun")), default=0.0)
        return time.monotonic() - last > max(hop.after for hop in self._hops.values()) + MOVES

    # --- the reckoning --------------------------------------------------------------------------------

    async def _left(self, bus: Bus, hop: Hop) -> Left:
        source = source_of(hop)
        depth, dead = await asyncio.gather(bus.depth(source), bus.depth(source.dead_letters))
        letters = await taken(bus, source.dead_letters) if dead.ready else []
        return Left(Counter(letters), depth.ready, depth.in_flight or 0, depth.delayed or 0)

    def _judge(self, point: Point, hop: Hop, left: Left, seconds: float) -> None:
        victim = self._died[point]
        entries = [entry for entry in self._reading.entries if entry.id.startswith(f"{hop.name}-")]
        books = Books(entries, set(left.letters))
        begun = {entry.id for entry in entries if entry.pid == victim.pid and entry.kind == "begun"}
        own = [entry for entry in self._reading.entries if entry.pid == victim.pid]
        death = Death(victim.pid, victim.code, victim.stderr(), unsettled_of(own) & begun, point.resends)
        victim.killed = victim.code == DIED
        found = self.found[point] = [*complaints(hop, books, death, left), *victim.complaints([])]
        if (recovery := self._recovery(entries)) > self._site.server.bounds.redelivery:
            found.append(f"it took {recovery:.1f} s until anything of it went on")
        server = f"{self._broker.name} {self._broker.version}"
        row = Row(f"dies at {point}", server, SENT + LATER, self._matrix.seed)
        row.confirmed, row.handled, row.lost = len(books.confirmed), len(books.handled), str(len(books.lost))
        row.duplicates = f"{repeated(books, left)} (<= {allowed(hop, books, death)})"
        row.recovery = f"{recovery:.1f}"
        row.seconds, row.outcome = f"{seconds:.0f}", "FAILED" if found else "ok"
        self._matrix.rows.append(row)

    def _recovery(self, entries: Sequence[Entry]) -> float:
        """Seconds until the first of its messages is begun by the process that handles the rest."""
        ready = min((e.at for e in self._reading.by_kind("ready") if e.pid == self._rest.pid), default=-math.inf)
        first = min((e.at for e in entries if e.pid == self._rest.pid and e.kind == "begun"), default=math.inf)
        return max(first - ready, 0.0)


def _hop(name: str, point: Point) -> Hop:
    return Hop(name=name, message=message_id(name, FAILS), verdict=point.verdict, group=point.group, after=point.after)

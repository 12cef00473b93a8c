"""One run: a queue, processes that publish to it and consume from it, a fault, and the reckoning."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pytest

from tests.brokers.cluster import Cluster
from tests.faults import load
from tests.faults.books import Books
from tests.faults.consuming import Consuming, Written
from tests.faults.journal import Entry, Reading
from tests.faults.matrix import Matrix, Row
from tests.faults.processes import Processes, Worker
from tests.faults.publishing import Publishing
from tests.faults.server import Ground, taken
from unibus import Bus, Queue
from unibus.testing.proxy import FaultProxy

CONSUMERS = 4
SHARE = 16
"""Messages that one of them holds."""
IN_FLIGHT = CONSUMERS * SHARE
"""C of the fault matrix."""
PUBLISHERS = 20
PATIENCE = 60.0
"""Seconds without any progress after which a run hangs."""
LOOK_EVERY = 0.02


@dataclass(frozen=True, slots=True)
class Fault:
    """When it struck, and when it was removed."""

    struck: float
    removed: float


class Run:
    """`async with run.of("broker kill -9"): …`; what the scenario does inside is judged by `reckon`."""

    def __init__(self, ground: Ground, matrix: Matrix, folder: Path) -> None:
        self.ground = ground
        self.bounds = ground.server.bounds
        self.broker = ground.broker
        self.url = ground.url
        self.count = matrix.count
        self.seed = matrix.seed
        self.folder = folder
        self.processes = Processes(folder)
        self.consumers: list[Worker] = []
        self.queue = ""
        self.reading = Reading(folder)
        self.recoveries: list[float] = []
        self._matrix = matrix
        self._row = Row("", f"{ground.broker.name} {ground.broker.version}", matrix.count, matrix.seed)
        self._began = time.monotonic()
        self._watched: Sequence[str] = ()
        self._watching = AsyncExitStack()
        self._started = 0
        self._left = 0
        self._consuming: Consuming

    def of(self, fault: str) -> Run:
        self._row.fault = fault
        return self

    async def __aenter__(self) -> Run:
        self._matrix.rows.append(self._row)
        self.queue = await self.ground.queue()
        if (watch := self.ground.server.watch) is not None:
            self._watched = await self._watching.enter_async_context(watch(self.url, self.queue))
        self.chances = load.chance(self.seed, self._row.fault)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._watching.aclose()
        await self.processes.kill_all()
        if self._row.confirmed == "-":  # it came to no reckoning: at least how far it came
            self.reading.catch_up()
            self._row.confirmed, self._row.handled = len(self.reading.ids("confirmed")), len(self.reading.ids("ended"))
        self._row.seconds = f"{time.monotonic() - self._began:.0f}"
        if isinstance(error, pytest.skip.Exception):
            self._row.outcome = "skipped"
        elif error is None:
            self._row.outcome = "ok"

    def proxy(self, door: int = 0) -> FaultProxy:
        """Before the broker. door: 0 for publishers, 1 for consumers; only once each at a time."""
        return self.ground.server.proxy(self.broker, door)

    def url_by(self, proxy: FaultProxy) -> str:
        return self.ground.server.url(self.broker, proxy)

    def needs_delays(self) -> None:
        if self.ground.capabilities.delay.support == "none":
            pytest.skip("this broker cannot delay messages")

    # --- processes ------------------------------------------------------------------------------------

    async def publish(
        self, *, url: str = "", queue: str = "", count: int = 0, pace: float = 0.0,
        delay: tuple[float, float] | None = None, times: int = 1,
    ) -> Worker:  # fmt: skip
        """Start a process that publishes: all messages of this run to its queue, unless told otherwise."""
        name = self._name("publishing")
        task = Publishing(
            url=url or self.url, queue=queue or self.queue, journal=self.processes.journal(name),
            run=f"{queue or self.queue}", seed=self.seed, count=count or self.count, publishers=PUBLISHERS,
            pace=pace, delay=delay, times=times,
        )  # fmt: skip
        return await self.processes.start(name, "tests.faults.publishing", task)

    async def consume(
        self, *, url: str = "", work: float = 0.0, failures: int = 0, store: Path | None = None,
        written: Written | None = None,
    ) -> list[Worker]:  # fmt: skip
        """Start the processes that consume; returns once all are ready."""
        self._consuming = Consuming(
            url=url or self.url, queue=self.queue, journal=self.folder, seed=self.seed, share=SHARE, work=work,
            failures=failures, store=store, written=written,
        )  # fmt: skip
        return await self._consume(CONSUMERS)

    async def more(self, count: int) -> None:
        """So many more consumers like the others."""
        await self._consume(count)

    async def _consume(self, many: int) -> list[Worker]:
        workers = []
        for _ in range(many):
            name = self._name("consuming")
            task = self._consuming.model_copy(update={"journal": self.processes.journal(name)})
            workers.append(await self.processes.start(name, "tests.faults.consuming", task))
        self.consumers += workers
        pids = {worker.pid for worker in workers}
        await self.until(lambda: pids <= {entry.pid for entry in self.of_kind("ready")}, "the consumers are ready")
        return workers

    def _name(self, what: str) -> str:
        self._started += 1
        return f"{self._started:02d}-{what}"

    def only(self, count: int) -> None:
        """Fewer messages than asked for: before anything is sent."""
        self.count = self._row.n = min(self.count, count)

    def at_least(self, count: int) -> None:
        """More messages than asked for: before anything is sent."""
        self.count = self._row.n = max(self.count, count)

    def work(self, seconds: float) -> float:
        """What a handler must take so that all messages keep all consumers busy for so many seconds."""
        return seconds * IN_FLIGHT / self.count

    # --- waiting --------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool], what: str, within: float = PATIENCE) -> None:
        deadline = time.monotonic() + within
        self.reading.catch_up()
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {within:g} s: {what}; {self._standing()}")
            await asyncio.sleep(LOOK_EVERY)
            self.reading.catch_up()

    async def until_share(self, kind: str, share: float = 1.0) -> None:
        """Until so large a share of the messages is confirmed, or ended. Fails when nothing moves any more."""
        wanted, known, patience = int(self.count * share), -1, 0.0
        while (now := len(self.reading.ids(kind))) < wanted:
            if now > known:
                known, patience = now, time.monotonic() + PATIENCE
            assert time.monotonic() < patience, f"no progress for {PATIENCE:g} s; {self._standing()}"
            await asyncio.sleep(LOOK_EVERY)
            self.reading.catch_up()

    async def until_further(self, *kinds: str, within: float = PATIENCE) -> None:
        """Until there is a new entry of each kind."""
        self.reading.catch_up()
        known = {kind: len(self.of_kind(kind)) for kind in kinds}
        await self.until(
            lambda: all(len(self.of_kind(kind)) > count for kind, count in known.items()),
            f"another {' and '.join(kinds)}",
            within,
        )

    def _standing(self) -> str:
        ids = self.reading.ids
        return f"{len(ids('confirmed'))} confirmed, {len(ids('begun'))} begun, {len(ids('ended'))} ended"

    def of_kind(self, kind: str) -> list[Entry]:
        return self.reading.by_kind(kind)

    # --- the broker -----------------------------------------------------------------------------------

    async def kill_broker(self) -> Fault:
        """kill -9, and start it again; returns once it serves."""
        return await self._strike(self.broker.kill, self.broker.start)

    async def restart_broker(self) -> Fault:
        """Politely; returns once it serves."""
        return await self._strike(self.broker.restart)

    async def kill_node(self, number: int) -> Fault:
        """kill -9 of one node of a cluster, which stays away until `start_nodes`: the others have to do."""
        assert isinstance(self.broker, Cluster)
        struck = time.monotonic()
        await asyncio.to_thread(self.broker.kill, number)
        return Fault(struck, struck)

    async def start_nodes(self) -> None:
        """Returns once they serve."""
        await asyncio.to_thread(self.broker.start)

    async def _strike(self, *steps: Callable[[], None]) -> Fault:
        struck = time.monotonic()
        for step in steps:
            await asyncio.to_thread(step)
        return Fault(struck, time.monotonic())

    async def recovered(self, fault: Fault, *kinds: str) -> float:
        """Seconds from the end of a fault until the first success of each kind that was not begun before it."""

        def after(kind: str) -> float | None:
            return next((e.at for e in self.of_kind(kind) if (e.began or e.at) > fault.removed), None)

        await self.until(
            lambda: all(after(kind) is not None for kind in kinds), f"{' and '.join(kinds)} after the fault"
        )
        took = max((after(kind) or 0.0) - fault.removed for kind in kinds)
        self.recoveries.append(took)
        return took

    def uncommitted(self, books: Books, *faults: Fault) -> int:
        """How many handled messages the broker may not have heard of when a fault struck, or shortly after.

        Who hears nothing for longer begins nothing more: it is at most what was handled in so many seconds.
        """
        seconds = self.bounds.uncommitted
        times = [entry.at for entry in books.of("ended")]

        def most(struck: float) -> int:
            begins = [at for at in times if struck - seconds < at <= struck]
            return max((sum(begin <= at < begin + seconds for at in times) for begin in begins), default=0)

        return sum(most(fault.struck) for fault in faults)

    # --- the reckoning --------------------------------------------------------------------------------

    async def finished(
        self, *, share: float = 1.0, quiet: float = 0.0, late: float = 0.0, elsewhere: Collection[str] = ()
    ) -> Books:
        """Wait for the end of all work, stop all, and read the books.

        share: of the messages that will be handled. quiet: seconds in which no handler began or ended that show
        that nothing is on its way any more. late: seconds for which the broker may hold up what is missing.
        """
        await self.until_share("confirmed")
        for publisher in set(self.processes.workers) - set(self.consumers):
            await publisher.ended()
        async with Bus(self.url) as bus:
            await self._drained(bus, share, quiet, PATIENCE / 2 + quiet + late)
            await self.processes.stop()
            await self.processes.kill_all()
            self._left = (await bus.depth(self.queue)).ready
            dead = await taken(bus, Queue(self.queue).dead_letters)
        self.reading.catch_up()
        return Books(self.reading.entries, dead, elsewhere)

    async def _drained(self, bus: Bus, share: float, quiet: float, patience: float) -> None:
        """Until all is handled or dead, and nothing moves; or for too long nothing has moved: the judge will tell."""
        wanted, runs, moved_at = int(self.count * share), -1, 0.0
        dead_letters = Queue(self.queue).dead_letters
        while True:
            self.reading.catch_up()
            if (now := len(self.of_kind("begun")) + len(self.of_kind("ended"))) > runs:
                runs, moved_at = now, time.monotonic()
            still = time.monotonic() - moved_at
            if still > patience:
                return
            if still >= quiet and (depth := await bus.depth(self.queue)).ready == 0 and not depth.in_flight:
                dead = (await bus.depth(dead_letters)).ready
                if len(self.reading.ids("ended")) + dead >= wanted:
                    return
            await asyncio.sleep(LOOK_EVERY * 5)

    def judge(
        self,
        books: Books,
        *,
        duplicates: int,
        losses: Collection[str] = (),
        extra_effects: int | None = None,
        recovery: float | None = None,
        also: Collection[str] = (),
    ) -> None:
        """Fill in the row of the table, then fail for all that is wrong. also: what else the scenario found."""
        self._fill_row(books, duplicates, extra_effects)
        complaints = books.complaints(self.count, duplicates=duplicates, losses=losses)
        if extra_effects is not None:
            complaints += books.effect_complaints(self.count, extra=extra_effects)
        limit = self.bounds.recovery if recovery is None else recovery
        complaints += [f"it took {took:.1f} s to recover" for took in self.recoveries if took > limit]
        complaints += self.processes.complaints(self.reading.entries)
        complaints += self._watched
        if self._left:
            complaints.append(f"{self._left} messages are left in the queue")
        complaints += also
        if complaints:
            pytest.fail("\n".join(complaints), pytrace=False)

    def _fill_row(self, books: Books, duplicates: int, extra_effects: int | None) -> None:
        row = self._row
        row.confirmed, row.unknown, row.handled = len(books.confirmed), len(books.unknown), len(books.handled)
        row.lost = f"{len(books.lost):,}"
        row.duplicates = f"{books.duplicates:,} (<= {duplicates:,})"
        if extra_effects is not None:
            row.effects = f"{books.effects.total():,} (<= {self.count + extra_effects:,})"
        if self.recoveries:
            row.recovery = f"{max(self.recoveries):.1f}"

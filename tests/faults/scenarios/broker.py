"""The broker goes away, and comes back."""

from __future__ import annotations

from tests.faults.run import IN_FLIGHT, PUBLISHERS, Run
from tests.faults.sqlite_store import made

RESTARTS = 2
"""Of a run of the default size; five of a large one."""
LARGE = 20_000


async def killed_mid_publish(run: Run) -> None:
    """Nobody consumes meanwhile, so that every duplicate is a publisher's."""
    async with run.of("broker kill -9 mid-publish"):
        await run.ground.rested()
        await run.publish()
        await run.until(lambda: len(run.of_kind("confirmed")) >= PUBLISHERS, "the first are confirmed")
        fault = await run.kill_broker()
        await run.recovered(fault, "confirmed")
        await run.until_share("confirmed")
        await run.consume()
        books = await run.finished()
        before = [entry for entry in books.confirmed.values() if entry.at < fault.struck]
        hit = [] if 0 < len(before) < run.count else [f"{len(before)} were confirmed before the kill: it hit nothing"]
        run.judge(books, duplicates=min(len(books.unknown), PUBLISHERS), also=hit)


async def killed_mid_consume(run: Run) -> None:
    """All is published before, so that every duplicate is a consumer's."""
    async with run.of("broker kill -9 mid-consume"):
        await run.ground.rested()
        await run.publish()
        await run.until_share("confirmed")
        await run.consume(work=run.work(8))
        await run.until_share("ended", 0.25)
        fault = await run.kill_broker()
        await run.recovered(fault, "ended")
        books = await run.finished()
        again = set() if run.bounds.keeps_acks else {e.id for e in books.of("ended") if e.at < fault.removed}
        run.judge(books, duplicates=IN_FLIGHT + len(again) + run.uncommitted(books, fault))


async def killed_with_effects(run: Run) -> None:
    """With a store that all consumers share, an effect is repeated at most where a handler ran."""
    async with run.of("broker kill -9, idempotent"):
        await run.ground.rested()
        store = await made(run.folder)
        await run.publish()
        await run.until_share("confirmed")
        await run.consume(work=run.work(8), store=store)
        await run.until_share("ended", 0.25)
        fault = await run.kill_broker()
        await run.recovered(fault, "ended")
        books = await run.finished()
        run.judge(books, duplicates=IN_FLIGHT, extra_effects=IN_FLIGHT)


async def restarted(run: Run) -> None:
    """Publishers and consumers are at work all the time, and come back by themselves each time."""
    rounds = 5 if run.count >= LARGE else RESTARTS
    async with run.of(f"clean restart x{rounds}"):
        await run.ground.rested()
        await run.consume(work=run.work(12 * rounds))
        await run.publish(pace=12 * rounds)
        faults = []
        for _ in range(rounds):
            await run.until_further("confirmed", "ended")
            faults.append(await run.restart_broker())
            await run.recovered(faults[-1], "confirmed", "ended")
        books = await run.finished()
        allowed = rounds * IN_FLIGHT + len(books.unknown) + run.uncommitted(books, *faults)
        run.judge(books, duplicates=allowed)

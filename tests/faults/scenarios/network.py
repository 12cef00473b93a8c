"""The broker is well, and the way to it is not."""

from __future__ import annotations

import asyncio
import time

from tests.faults.load import MARK
from tests.faults.run import IN_FLIGHT, PUBLISHERS, SHARE, Fault, Run

HOLE = 10.0
"""Seconds."""
DROPS = 5


async def black_hole(run: Run) -> None:
    """Both ways, for all: nothing is lost on the way, but nobody can know."""
    async with run.of(f"black hole {HOLE:.0f} s"), run.proxy() as proxy:
        url = run.url_by(proxy)
        await run.consume(url=url, work=run.work(15))
        await run.publish(url=url, pace=15)
        await run.until_share("ended", 0.1)
        struck = time.monotonic()
        proxy.freeze()
        await asyncio.sleep(HOLE)  # the fault itself
        removed = time.monotonic()
        proxy.heal()
        hole = Fault(struck, removed)
        await run.recovered(hole, "confirmed", "ended")
        books = await run.finished()
        attempts = [e for e in books.attempts_within(struck, removed) if e.began > struck or e.kind == "unknown"]
        wrong = [f"confirmed in a black hole: {e.id}" for e in attempts if e.kind == "confirmed" and e.at < removed]
        slow = [e.at - e.began for e in attempts if e.at - e.began > run.bounds.publish]
        wrong += [f"an attempt to send ended after {seconds:.1f} s" for seconds in slow]
        if not [e for e in books.unknown if struck < e.at < removed]:
            wrong.append("no publisher was told that the outcome is unknown while nothing came through")
        run.judge(books, duplicates=IN_FLIGHT + PUBLISHERS + run.uncommitted(books, hole), also=wrong)


async def dropped_replies(run: Run) -> None:
    """What the broker said is lost, and the connection with it: once to a publisher, once to a consumer, by turns."""
    async with run.of(f"dropped replies x{2 * DROPS}"), run.proxy(0) as near, run.proxy(1) as far:
        await run.consume(url=run.url_by(far), work=run.work(20))
        await run.publish(url=run.url_by(near), pace=20)
        await run.until_share("ended", 0.05)
        for _ in range(DROPS):
            confirm = near.drop_reply()
            delivery = far.drop_reply(when=lambda chunk: MARK.encode() in chunk)
            await asyncio.wait_for(asyncio.gather(confirm.wait(), delivery.wait()), 30)
            removed = time.monotonic()
            await run.recovered(Fault(removed, removed), "confirmed", "ended")
        books = await run.finished()
        run.judge(books, duplicates=len(books.unknown) + DROPS * SHARE)

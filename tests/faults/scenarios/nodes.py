"""A cluster of nodes: the leaders of a queue's partitions move, and nodes die and come back. All goes on meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from tests.faults.kafka import administering, coordinator, leaders, move_leaders
from tests.faults.run import IN_FLIGHT, PUBLISHERS, Fault, Run

MOVES = 3
WITHIN = 30.0
"""Seconds for the preferred leaders to be elected: nodes look every five."""


async def leaders_moved(run: Run) -> None:
    """Politely, under load. Nobody has to know: what was sent to the old leader is sent again to the new one, once."""
    async with run.of(f"leaders moved x{MOVES}"), administering(run.url) as admin:
        await run.consume(work=run.work(8 * MOVES))
        await run.publish(pace=8 * MOVES)
        for _ in range(MOVES):
            await run.until_further("confirmed", "ended")
            before = await leaders(admin, run.queue)
            await move_leaders(admin, run.queue)
            deadline = time.monotonic() + WITHIN
            while any(leader == before[number] for number, leader in (await leaders(admin, run.queue)).items()):
                assert time.monotonic() < deadline, f"still led as before: {before}"
                await asyncio.sleep(0.1)
            moved = time.monotonic()
            await run.recovered(Fault(moved, moved), "confirmed", "ended")
        books = await run.finished()
        run.judge(books, duplicates=len(books.unknown))


async def killed_mid_publish(run: Run) -> None:
    """The one that leads most of the queue's partitions. All publishers go on while it is away."""
    async with run.of("node kill -9 mid-publish"):
        await run.publish(pace=15)
        await run.until(lambda: len(run.of_kind("confirmed")) >= PUBLISHERS, "the first are confirmed")
        async with administering(run.url) as admin:
            led = Counter((await leaders(admin, run.queue)).values())
        fault = await run.kill_node(led.most_common(1)[0][0])
        await all_publish_again(run, fault)
        await run.start_nodes()
        await run.until_share("confirmed")
        await run.consume()
        books = await run.finished()
        run.judge(books, duplicates=min(len(books.unknown), PUBLISHERS))


async def killed_mid_consume(run: Run) -> None:
    """The one that leads most of the queue's partitions."""
    async with run.of("node kill -9 mid-consume"):
        await run.publish()
        await run.until_share("confirmed")
        await run.consume(work=run.work(15))
        await run.until_share("ended", 0.2)
        async with administering(run.url) as admin:
            led = Counter((await leaders(admin, run.queue)).values())
        fault = await run.kill_node(led.most_common(1)[0][0])
        await run.recovered(fault, "ended")
        await run.until_share("ended", 0.6)
        await run.start_nodes()
        books = await run.finished()
        run.judge(books, duplicates=IN_FLIGHT + run.uncommitted(books, fault))


async def coordinator_killed(run: Run) -> None:
    """The one that keeps the group's books: who belongs to it, and how far it is. Another goes on with them."""
    async with run.of("coordinator kill -9"):
        await run.consume(work=run.work(15))
        await run.publish(pace=15)
        await run.until_share("ended", 0.2)
        async with administering(run.url) as admin:
            fault = await run.kill_node(await coordinator(admin, run.queue))
        await all_publish_again(run, fault)
        await run.recovered(fault, "ended")
        await run.until_share("ended", 0.6)
        await run.start_nodes()
        books = await run.finished()
        run.judge(books, duplicates=len(books.unknown) + IN_FLIGHT + run.uncommitted(books, fault))


async def all_publish_again(run: Run, fault: Fault) -> None:
    """Until each publisher has had an attempt confirmed that it began after the fault: one that leads nothing more is
    in nobody's way."""

    def again() -> set[int]:
        return {number_of(entry.id) % PUBLISHERS for entry in run.of_kind("confirmed") if entry.began > fault.removed}

    await run.until(lambda: len(again()) == PUBLISHERS, "all publishers go on")
    run.recoveries.append(time.monotonic() - fault.removed)


def number_of(message: str) -> int:
    return int(message.rpartition("-")[2])

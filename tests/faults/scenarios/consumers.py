"""Consumers are killed with handlers at work, and replaced."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.faults.books import Books
from tests.faults.processes import Worker
from tests.faults.run import CONSUMERS, IN_FLIGHT, SHARE, Fault, Run
from tests.faults.sqlite_store import made

KILLS = 10
LASTS = 30.0
"""Seconds that all messages keep the consumers busy, where a death is noticed at once."""


async def killed_mid_handler(run: Run) -> None:
    """What a killed process had in hand is soon with another."""
    async with run.of(f"consumer kill -9 x{KILLS}"):
        await run.publish()
        await run.until_share("confirmed")
        await run.consume(work=run.work(long_enough(run)))
        for _ in range(KILLS):
            await kill_one(run)
        books = await run.finished()
        repeated = KILLS * SHARE + untold(run)
        run.judge(books, duplicates=repeated, recovery=run.bounds.redelivery, also=enough(run))


async def killed_with_effects(run: Run) -> None:
    """With a store that all consumers share, an effect is repeated at most where a handler ran."""
    async with run.of(f"consumer kill -9 x{KILLS}, idempotent"):
        store = await made(run.folder)
        await run.publish()
        await run.until_share("confirmed")
        await run.consume(work=run.work(long_enough(run)), store=store)
        for _ in range(KILLS):
            await kill_one(run)
        # A message that waits for the claim of a dead process is redelivered, but begun only later.
        books = await run.finished()
        extra = KILLS * SHARE
        repeated = extra + untold(run)
        run.judge(books, duplicates=repeated, extra_effects=extra, recovery=long_enough(run), also=enough(run))


async def scaled(run: Run) -> None:
    """More consumers come and, later, most of them go again, politely: all goes on, and little is repeated."""
    async with run.of(f"consumers {CONSUMERS} -> {2 * CONSUMERS} -> {CONSUMERS // 2}"):
        await run.consume(work=run.work(LASTS / 2))
        await run.publish(pace=LASTS / 4)
        await run.until_share("ended", 0.15)
        await run.more(CONSUMERS)
        await run.until_share("ended", 0.4)
        leaving = run.chances.sample(run.consumers, 2 * CONSUMERS - CONSUMERS // 2)
        for worker in leaving:
            worker.ask_to_stop()
        stayed = [worker.name for worker in leaving if not await worker.ended()]
        books = await run.finished()
        also = [f"{name} does not end" for name in stayed]
        run.judge(books, duplicates=2 * IN_FLIGHT + len(books.unknown), also=also)


async def slow(run: Run) -> None:
    """Handlers that take three times as long as the broker waits for a silent consumer: ours is never silent."""
    silence = run.bounds.silence
    if silence is None:
        pytest.skip("this broker does not take from a consumer what it holds, as long as its connection stands")
    async with run.of(f"handlers of {3 * silence:.0f} s, where {silence:.0f} s of silence are suffered"):
        run.only(IN_FLIGHT)
        await run.publish()
        await run.until_share("confirmed")
        await run.consume(work=3 * silence)
        books = await run.finished()
        run.judge(books, duplicates=0)


async def frozen(run: Run) -> None:
    """One stands still for longer than the broker waits for it, and goes on as if nothing had happened: what it had in
    hand is with others by then, and it takes nothing from them."""
    silence = run.bounds.silence
    if silence is None:
        pytest.skip("this broker does not take from a consumer what it holds, as long as its connection stands")
    async with run.of("consumer frozen"):
        await run.publish()
        await run.until_share("confirmed")
        await run.consume(work=run.work(LASTS / 2 + 2 * silence))
        await run.until_share("ended", 0.1)
        await run.until(lambda: bool(at_work(run)), "a victim is at work")
        victim = run.chances.choice(at_work(run))
        victim.freeze()
        struck = time.monotonic()
        run.reading.catch_up()
        orphans = Books(run.reading.entries).running(victim.pid, struck)
        await run.until(lambda: begun_again(run, orphans, struck) > 0, "what it had in hand is begun by another")
        run.recoveries.append(begun_again(run, orphans, struck) - struck)
        victim.thaw()
        thawed = time.monotonic()
        await run.until(
            lambda: any(entry.pid == victim.pid and entry.at > thawed + 1 for entry in run.of_kind("begun")),
            "it works again",
        )
        books = await run.finished()
        allowed = SHARE + run.uncommitted(books, Fault(struck, thawed))
        run.judge(books, duplicates=allowed, recovery=run.bounds.redelivery)


def long_enough(run: Run) -> float:
    """Seconds in which all victims are still at work: each death is noticed only by its silence."""
    return LASTS + KILLS * (run.bounds.silence or 0.0)


def untold(run: Run) -> int:
    """What the first victim may have ended so shortly before that the broker had not heard of it. After a death the
    others tell each end at once: the next may be theirs."""
    return SHARE if run.bounds.uncommitted else 0


def enough(run: Run) -> list[str]:
    """Whether there was something to show."""
    return [] if len(run.recoveries) >= KILLS // 2 else [f"only {len(run.recoveries)} kills hit a first run"]


def at_work(run: Run) -> list[Worker]:
    """Where each reads partitions of its own, one may have done all that there was for it."""
    books, now = Books(run.reading.entries), time.monotonic()
    return [worker for worker in run.consumers if not worker.killed and books.running(worker.pid, now)]


def begun_again(run: Run, orphans: set[str], since: float) -> float:
    """When the first of them was, or 0."""
    return next((entry.at for entry in run.of_kind("begun") if entry.at > since and entry.id in orphans), 0.0)


async def kill_one(run: Run) -> None:
    """Kill one of the consumers in the middle of its handlers, and put another in its place."""
    await run.until(lambda: bool(at_work(run)), "a victim is at work")
    victim = run.chances.choice(at_work(run))
    await victim.kill()
    died = time.monotonic()
    run.reading.catch_up()
    orphans = Books(run.reading.entries).running(victim.pid, died)

    # What was redelivered before, to a handler or into the hands of a process that died, may by now be a suspect, and
    # has to wait.
    begun = run.of_kind("begun")
    runs = Counter(entry.id for entry in begun)
    redelivered = {entry.id for entry in begun if entry.value > 1}
    fresh = {one for one in orphans if runs[one] == 1} - redelivered
    if fresh:
        await run.until(lambda: begun_again(run, fresh, died) > 0, "what the killed process had in hand is begun again")
        run.recoveries.append(begun_again(run, fresh, died) - died)
    await run.more(1)

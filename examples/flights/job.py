"""The job: refuse what an earlier run left, send the flights, wait for the last of them, close the books."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator

from examples.flights.app import COUNT, DELAYS, FLIGHTS, RETRY_AFTER, make_bus
from examples.flights.books import Books, DeadFlight
from examples.flights.ledger import Ledger
from examples.flights.leftovers import depths, refuse_leftovers, throw_away
from examples.flights.messages import FlightRow
from examples.flights.rows import read_rows
from unibus import Bus, Queue, TopicSubscription
from unibus.dead_letters import DeadLetter
from unibus.driver import Guarantee
from unibus.errors import ConnectionLost

DEAD_LETTERS = FLIGHTS.dead_letters
SOURCES: tuple[Queue | TopicSubscription, ...] = (
    FLIGHTS, DEAD_LETTERS, DELAYS, DELAYS.dead_letters, COUNT, COUNT.dead_letters,
)  # fmt: skip

SENT_TWICE = 0.05
LOOK_EVERY = 0.1
QUIET = RETRY_AFTER + 5.0
"""Where messages may be lost: seconds without any progress after which the rest is given up."""


class Standstill(Exception):
    """Nothing happens any more; the message says what is missing."""


async def run(
    url: str,
    *,
    seed: int = 1,
    concurrency: int = 50,
    at_most_once: bool = False,
    purge: bool = False,
    patience: float = 300.0,
    on_progress: Callable[[Ledger, Bus], None] = lambda ledger, bus: None,
) -> Books:
    """Raises NotEmpty if something is left of an earlier run, Standstill if nothing happens for `patience` seconds."""
    ledger = Ledger()
    guarantee: Guarantee = "at_most_once" if at_most_once else "at_least_once"
    bus = make_bus(url, ledger, seed=seed, concurrency=concurrency, guarantee=guarantee)
    async with bus:
        if purge:
            await throw_away(bus, SOURCES)
        await refuse_leftovers(bus, SOURCES)
        async with bus.consuming():
            started = time.monotonic()
            flights = repeat_some(read_rows(), ledger, seed)
            producer = bus.producer(FLIGHTS, type=FlightRow)
            sending = asyncio.create_task(producer.send_many(flights, key=lambda row: row.tailnum))
            try:
                await all_done(bus, ledger, sending, at_most_once=at_most_once, patience=patience, look=on_progress)
            finally:
                sending.cancel()
            seconds = time.monotonic() - started
            stats = bus.stats()[FLIGHTS.name]
            dead = await read_dead_letters(bus, stats.dead_lettered)
        return Books(
            ledger=ledger,
            sent=sending.result(),
            skipped=stats.skipped,
            retried=stats.retried,
            dead=dead,
            left=await depths(bus, SOURCES),
            seconds=seconds,
        )


def repeat_some(rows: Iterator[FlightRow], ledger: Ledger, seed: int) -> Iterator[FlightRow]:
    """Every row, and one departed flight in twenty a second time, as by a sender that saw no answer."""
    draw = random.Random(seed)
    for row in rows:
        ledger.read += 1
        yield row
        if row.cancelled:
            ledger.cancelled.add(row.flight_id)
        elif draw.random() < SENT_TWICE:
            ledger.repeated += 1
            yield row


# --- waiting for the last one -------------------------------------------------------------------------


async def all_done(
    bus: Bus,
    ledger: Ledger,
    sending: asyncio.Task[int],
    *,
    at_most_once: bool,
    patience: float,
    look: Callable[[Ledger, Bus], None],
) -> None:
    """Return once every message is accounted for and the queues are empty, however long that takes.

    Only a standstill ends it early: after `patience` seconds it is an error. Where messages may be
    lost the counts need never add up, so there a shorter one, over empty queues, is the end.
    """
    progress: object = None
    progress_at = time.monotonic()
    while missing := await outstanding(bus, ledger, sending):
        look(ledger, bus)
        stats = bus.stats()[FLIGHTS.name]
        now = (ledger.read, ledger.handled.total(), ledger.counted, stats.skipped, stats.retried, stats.dead_lettered)
        if now != progress:
            progress, progress_at = now, time.monotonic()
        still = time.monotonic() - progress_at
        if at_most_once and still > QUIET and sending.done() and not await in_queues(bus):
            break
        if still > patience:
            raise Standstill(f"nothing has happened for {patience:g} s; missing: {'; '.join(missing)}")
        await asyncio.sleep(LOOK_EVERY)
    look(ledger, bus)


async def outstanding(bus: Bus, ledger: Ledger, sending: asyncio.Task[int]) -> list[str]:
    """What has not arrived yet: by the counts, and once they add up, by the queues. Raises what stopped the sending."""
    if not sending.done():
        return [f"the rest of the file, after {ledger.read:,} rows"]
    sent, stats, handled = sending.result(), bus.stats()[FLIGHTS.name], ledger.handled.total()
    heard = sum(mean.count for mean in ledger.delays.values())
    counts = {
        "flights to be handled, skipped or dead-lettered": sent - handled - stats.skipped - stats.dead_lettered,
        "departures to be heard by the group delays": handled - heard,
        "departures to be heard by the group count": handled - ledger.counted,
    }
    return [f"{number:,} {what}" for what, number in counts.items() if number > 0] or await in_queues(bus)


async def in_queues(bus: Bus) -> list[str]:
    """What the handlers still have before them."""
    try:
        found = await depths(bus, (FLIGHTS, DELAYS, COUNT))
    except ConnectionLost as error:  # the driver reconnects; so it is not known now, and asked again
        return [f"an answer of the broker ({error})"]
    return [f"{depth:,} messages in {source}" for source, depth in found.items() if depth]


# --- dead letters --------------------------------------------------------------------------------------


async def read_dead_letters(bus: Bus, expected: int) -> list[DeadFlight]:
    """Take what is in flights.dlq. Cancelled flights are done with; anything else stays there to be looked at."""
    found: list[DeadFlight] = []
    async with bus.pull(queue=DEAD_LETTERS, type=FlightRow) as deliveries:
        while len(found) < expected and (delivery := await deliveries.next(max_wait=10)) is not None:
            record = DeadLetter.from_attributes(delivery.message.attributes)
            found.append(DeadFlight(delivery.data.flight_id, record.reason if record else "no reason given"))
            if delivery.data.cancelled:
                await delivery.ack()
    return found

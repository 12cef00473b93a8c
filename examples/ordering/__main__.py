"""A month of flights through an ordered queue: the key is the aircraft.

Some flights fail and are run again. Each aircraft's flights stay in order all the same: its later
ones wait for the one that failed, while those of other aircraft go on. The exit code is 1 if the
order of a single one is wrong.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import NamedTuple

from examples.flights.app import unlucky
from examples.flights.leftovers import NotEmpty, refuse_leftovers
from examples.flights.messages import FlightRow
from examples.flights.rows import read_rows
from examples.running import run
from unibus import Bus, Message, Queue, constant, idempotent, retry

FLIGHTS = Queue("flights-by-aircraft", ordering="key")
ROWS = [row for row in read_rows() if row.tailnum is not None]


class Run(NamedTuple):
    """One run of the handler."""

    aircraft: str
    flight: str
    outcome: str


bus = Bus("memory://", name="aircraft", idempotency_store="memory")
runs: list[Run] = []
handled: defaultdict[str, list[str]] = defaultdict(list)
outstanding = {row.flight_id for row in ROWS}
all_handled = asyncio.Event()


@bus.consumer(FLIGHTS, concurrency=20, prefetch=500)
@idempotent(key=lambda message: message.data.flight_id)
@retry(on=ConnectionError, backoff=constant(0.3))
async def follow(row: FlightRow, message: Message[FlightRow]) -> None:
    aircraft, flight = message.key or "", row.flight_id
    if unlucky(flight, seed=1) and message.attempt == 1:
        runs.append(Run(aircraft, flight, "failed"))
        raise ConnectionError("the aircraft's log book does not answer")
    await asyncio.sleep(0)  # as a handler that waits for something, so that others run meanwhile
    runs.append(Run(aircraft, flight, f"handled, attempt {message.attempt}"))
    handled[aircraft].append(flight)
    outstanding.discard(flight)
    if not outstanding:
        all_handled.set()


async def main() -> None:
    async with bus:
        try:
            await refuse_leftovers(bus, [FLIGHTS])
        except NotEmpty:
            raise SystemExit(f"error: the queue {FLIGHTS} is not empty: empty it, or use another broker") from None
        async with bus.consuming(), asyncio.timeout(300):
            await bus.producer(FLIGHTS, type=FlightRow).send_many(ROWS, key=lambda row: row.tailnum)
            await all_handled.wait()
    show_one()
    check()


def show_one() -> None:
    """The failure whose aircraft had its next flight waiting for the shortest time after it."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, a_run in enumerate(runs):
        places[a_run.aircraft].append(place)
    _, failed, again = min(
        (following - again, failed, again)
        for of_aircraft in places.values()
        for failed, again, following in zip(of_aircraft, of_aircraft[1:], of_aircraft[2:], strict=False)
        if runs[failed].outcome == "failed"
    )
    aircraft = runs[failed].aircraft
    print(f"{aircraft}, one of {len(places):,} aircraft; the number counts the runs of all:")
    for place in places[aircraft]:
        print(f"{place:>8,}  {runs[place].flight:<30} {runs[place].outcome}")
    print(f"Meanwhile {again - failed - 1:,} runs for other aircraft went on.\n")


def check() -> None:
    sent: defaultdict[str, list[str]] = defaultdict(list)
    for row in ROWS:
        sent[row.tailnum or ""].append(row.flight_id)
    wrong = [aircraft for aircraft in sent if handled[aircraft] != sent[aircraft]]
    if wrong:
        raise SystemExit(f"error: {len(wrong):,} aircraft are out of order, {wrong[0]} among them")
    failures = sum(a_run.outcome == "failed" for a_run in runs)
    print(f"{len(ROWS):,} flights, {failures:,} of them failed once: every aircraft's are in order.")


if __name__ == "__main__":
    run(bus, main)

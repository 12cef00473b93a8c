"""The flights, as a user runs them and with what goes wrong: left-overs, thieves, duplicates."""

from __future__ import annotations

import asyncio
import csv
import gzip
import json
import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from examples.flights import job
from examples.flights.__main__ import app
from examples.flights.app import COUNT, DELAYS, FLIGHTS, make_bus
from examples.flights.ledger import Ledger
from examples.flights.leftovers import NotEmpty, refuse_leftovers
from examples.flights.rows import FILE
from tests.examples.commands import python
from unibus import BatchError, Bus, OutcomeUnknown, Queue, Topic, TopicSubscription, registry
from unibus.driver import Address, Clock, Depth, Driver, Outbound, Source, Url
from unibus.errors import ConnectionLost

KEYS = ["read", "sent", "handled", "duplicates_skipped", "retried", "dead_lettered", "counted", "mean_delay"]


@pytest.fixture(autouse=True)
def _only_errors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    logger = logging.getLogger("unibus.consumer")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


def mean_delays() -> dict[str, float]:
    """From the file alone."""
    delays = defaultdict(list)
    with gzip.open(FILE, "rt") as lines:
        for row in csv.DictReader(lines):
            if row["dep_time"]:
                delays[row["carrier"]].append(int(row["dep_delay"]))
    return {carrier: round(sum(of_carrier) / len(of_carrier), 4) for carrier, of_carrier in delays.items()}


def test_the_books_balance() -> None:
    ended = python("-m", "examples.flights", "--json")
    assert ended.returncode == 0, ended.stderr
    books = json.loads(ended.stdout.splitlines()[-1])
    assert list(books) == KEYS
    assert books["read"] == 27_004
    assert books["handled"] == 26_483
    assert books["dead_lettered"] == 521
    assert books["counted"] == 26_483
    assert books["sent"] == books["handled"] + books["duplicates_skipped"] + books["dead_lettered"]
    assert 0.04 < books["duplicates_skipped"] / 26_483 < 0.06
    assert 0.005 < books["retried"] / 26_483 < 0.015
    assert books["mean_delay"] == mean_delays()
    assert ended.stderr == ""


def test_without_idempotency_the_exit_code_is_1() -> None:
    """The check can fail: the same program, with one decorator taken away."""
    broken = (
        "import examples.flights.app as program; program.idempotent = lambda **_: lambda handler: handler; "
        "from examples.flights.__main__ import app; app()"
    )
    ended = python("-c", broken, "--seed", "7")
    assert ended.returncode == 1
    assert "the books do not balance" in ended.stderr
    assert "flights were handled more than once" in ended.stderr
    assert "The books balance." not in ended.stdout
    assert "mean delay, min" in ended.stdout


# --- a broker that does not answer ----------------------------------------------------------------------


class Unreliable:
    """A driver that stores what is published and now and then does not say so; it knows no more than it must."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._draw = random.Random(3)
        self.unanswered = 0
        self.refusals = 3

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        await asyncio.sleep(0.002)
        await self._driver.send(address, messages)
        if isinstance(address, Topic):
            drawn = [index for index in range(len(messages)) if self._draw.random() < 0.002]
            self.unanswered += len(drawn)
            if drawn:
                raise BatchError({index: OutcomeUnknown("no answer") for index in drawn})

    async def depth(self, source: Source) -> Depth:
        if self.unanswered and self.refusals:
            self.refusals -= 1
            raise ConnectionLost("the connection is being made anew")
        return replace(await self._driver.depth(source), in_flight=None, delayed=None)


async def test_what_is_published_again_for_want_of_an_answer_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    drivers: list[Unreliable] = []
    connect = registry.connect

    def connect_unreliable(url: Url, clock: Clock) -> Unreliable:
        drivers.append(Unreliable(connect(url, clock)))
        return drivers[0]

    monkeypatch.setattr(registry, "connect", connect_unreliable)
    books = await job.run("memory://unreliable")
    assert books.problems() == []
    assert drivers[0].unanswered > 10
    assert drivers[0].refusals == 0
    assert books.retried == len(books.ledger.failed) + drivers[0].unanswered


# --- left-overs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [FLIGHTS.name, FLIGHTS.dead_letters.name, DELAYS.name, COUNT.name])
async def test_leftovers_are_refused_by_name(source: str) -> None:
    async with make_bus("memory://leftovers", Ledger()) as other:
        await leave(other, source)
        with pytest.raises(NotEmpty, match=rf"{source} \(\d\).*--purge"):
            await job.run("memory://leftovers")


async def leave(bus: Bus, source: str) -> None:
    """One message, or more where it is a group's."""
    if source.startswith("unibus.group."):
        await bus.publisher("flight.departed.UA").publish({"flight_id": "x", "carrier": "UA", "delay": 1})
    else:
        await bus.producer(source).send({"left": "over"})


def test_leftovers_end_the_command_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leave_and_refuse(bus: Bus, sources: Sequence[Queue | TopicSubscription]) -> None:
        await leave(bus, FLIGHTS.name)
        await refuse_leftovers(bus, sources)

    monkeypatch.setattr(job, "refuse_leftovers", leave_and_refuse)
    ended = CliRunner().invoke(app)
    assert ended.exit_code == 1
    assert ended.stderr.splitlines() == ["error: not empty: flights (1); --purge throws away what is in there"]


async def test_purge_throws_leftovers_away() -> None:
    url = "memory://purged?model=log"
    async with make_bus(url, Ledger()) as other:
        await leave(other, FLIGHTS.name)
        await leave(other, FLIGHTS.dead_letters.name)
        await leave(other, COUNT.name)
        await other.producer(FLIGHTS).send({"left": "over"}, delay=0.8)
        books = await job.run(url, purge=True)
    assert books.problems() == []


# --- losses -------------------------------------------------------------------------------------------

STOLEN = 10


async def steal(bus: Bus) -> None:
    """Take messages of the job away, as a broker that loses them would."""
    async with bus.pull(queue=FLIGHTS, prefetch=1) as deliveries:
        stolen = 0
        async for delivery in deliveries:
            await delivery.ack()
            stolen += delivery.data["dep_time"] is not None
            if stolen == STOLEN:
                return


async def test_a_loss_is_a_standstill_that_says_what_is_missing() -> None:
    async with Bus("memory://stolen") as thief:
        stealing = asyncio.create_task(steal(thief))
        with pytest.raises(job.Standstill, match=r"happened for 2 s; missing: \d+ flights to be handled"):
            await job.run("memory://stolen", patience=2)
        await stealing


async def test_a_loss_is_counted_where_it_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "QUIET", 2.5)
    url = "memory://lossy?guarantee=at_most_once"
    async with Bus(url) as thief:
        stealing = asyncio.create_task(steal(thief))
        books = await job.run(url, at_most_once=True)
        await stealing
    assert books.lost >= STOLEN
    assert books.handled + books.skipped + len(books.dead) + books.lost == books.sent
    assert books.problems(at_most_once=True) == []
    assert any("messages were lost" in problem for problem in books.problems())


def test_a_broker_that_can_lose_is_refused_unless_that_is_accepted() -> None:
    ended = CliRunner().invoke(app, ["--url", "memory://?guarantee=at_most_once"])
    assert ended.exit_code == 1
    assert "--at-most-once" in ended.stderr

"""The balance itself: every way in which the books may be wrong is said."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from examples.flights import report
from examples.flights.books import Books, DeadFlight
from examples.flights.ledger import Ledger, Mean
from examples.flights.rows import CANCELLED, DEPARTED, ROWS

REASON = "DecodeError: the payload is not valid: Departure: dep_time: Input should be a valid integer"


def balanced() -> Books:
    cancelled = {f"cancelled {number}" for number in range(CANCELLED)}
    ledger = Ledger(
        read=ROWS,
        repeated=1_300,
        cancelled=cancelled,
        handled=Counter({f"flight {number}": 1 for number in range(DEPARTED)}),
        failed={"flight 1", "flight 2"},
        counted=DEPARTED,
        delays=defaultdict(Mean, UA=Mean(DEPARTED * 3, DEPARTED)),
    )
    dead = [DeadFlight(flight, REASON) for flight in sorted(cancelled)]
    return Books(
        ledger=ledger, sent=ROWS + 1_300, skipped=1_300, retried=2, dead=dead, left={"flights": 0}, seconds=4.0
    )


def test_balanced() -> None:
    assert balanced().problems() == []
    assert balanced().problems(at_most_once=True) == []
    assert balanced().lost == 0


def forget_a_flight(books: Books) -> Books:
    del books.ledger.handled["flight 5"]
    return books


def handle_twice(books: Books) -> Books:
    books.ledger.handled["flight 5"] += 1
    return books


def count(books: Books, number: int) -> Books:
    books.ledger.counted += number
    return books


def hear(books: Books, delay: int) -> Books:
    books.ledger.delays["UA"].add(delay)
    return books


def unhear(books: Books) -> Books:
    books.ledger.delays["UA"].count -= 1
    return books


def misread(books: Books) -> Books:
    books.ledger.read -= 1
    return books


DOUBLED: list[tuple[Callable[[Books], Books], str]] = [
    (handle_twice, "1 flights were handled more than once, flight 5 among them"),
    (lambda books: count(books, 1), "the group count heard 26,484 departures of 26,483"),
    (lambda books: hear(books, 3), "the group delays heard 26,484 departures of 26,483"),
    (
        lambda books: replace(books, skipped=1_301),
        "1 more messages were handled, skipped or dead-lettered than were sent",
    ),
    (lambda books: replace(books, dead=[*books.dead, books.dead[0]]), "1 flights are dead letters twice"),
    (
        lambda books: replace(books, dead=[*books.dead[1:], DeadFlight("flight 9", "ValueError: no")]),
        "1 dead letters are no cancelled flights: flight 9, ValueError: no",
    ),
    (misread, "27,003 rows were read instead of 27,004"),
    (lambda books: replace(books, sent=books.sent + 1), "28,305 were sent instead of 28,304"),
]
LOST: list[tuple[Callable[[Books], Books], str]] = [
    (forget_a_flight, "26,482 flights were handled exactly once instead of 26,483"),
    (forget_a_flight, "1 messages were lost"),
    (lambda books: replace(books, dead=books.dead[1:]), "520 dead letters instead of 521"),
    (lambda books: replace(books, skipped=1_299), "1,299 duplicates were skipped, 1,300 were sent"),
    (lambda books: replace(books, retried=1), "2 runs failed and 1 were retried"),
    (lambda books: count(books, -1), "the group count heard 26,482 departures of 26,483"),
    (unhear, "the group delays heard 26,482 departures of 26,483"),
    (lambda books: replace(books, left={"flights": 2}), "2 messages are left in flights"),
]


@pytest.mark.parametrize(("change", "problem"), [*DOUBLED, *LOST])
def test_what_does_not_balance_is_said(change: Callable[[Books], Books], problem: str) -> None:
    assert problem in change(balanced()).problems()


@pytest.mark.parametrize(("change", "problem"), DOUBLED)
def test_nothing_may_be_doubled_even_where_it_may_be_lost(change: Callable[[Books], Books], problem: str) -> None:
    assert problem in change(balanced()).problems(at_most_once=True)


@pytest.mark.parametrize("change", [forget_a_flight, unhear, lambda books: count(books, -1)])
def test_losses_are_no_problem_where_they_are_accepted(change: Callable[[Books], Books]) -> None:
    books = change(balanced())
    if change is forget_a_flight:  # a flight that nobody handled is not published, so nobody heard of it
        unhear(count(books, -1))
    assert books.problems(at_most_once=True) == []


@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_tables_say_all_of_it(width: int) -> None:
    console = Console(width=width, file=io.StringIO())
    report.show(balanced(), console, at_most_once=True)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    words = " ".join(shown.split())
    for line in (
        "read 27,004",
        "sent 28,304",
        "handled once 26,483",
        "duplicates skipped 1,300",
        "retried 2",
        "dead-lettered 521",
        "DecodeError:",
        "lost 0",
        "counted 26,483",
        "messages per second 7,076",
        "UA 26,483 3.0",
    ):
        assert line in words
    assert max(map(len, shown.splitlines())) <= width

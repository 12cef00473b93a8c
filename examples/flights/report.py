"""What is shown: bars while it runs, then the books as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from examples.flights.app import FLIGHTS
from examples.flights.books import Books
from examples.flights.ledger import Ledger
from examples.flights.rows import CANCELLED, DEPARTED, ROWS
from unibus import Bus


@contextmanager
def bars(console: Console) -> Iterator[Callable[[Ledger, Bus], None]]:
    """Four bars; the function that moves them is given to the job."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # On no terminal there is nothing to move: a log gets the tables only.
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        read = progress.add_task("read", total=ROWS)
        handled = progress.add_task("handled", total=DEPARTED)
        dead = progress.add_task("dead-lettered", total=CANCELLED)
        counted = progress.add_task("counted", total=DEPARTED)

        def move(ledger: Ledger, bus: Bus) -> None:
            progress.update(read, completed=ledger.read)
            progress.update(handled, completed=len(ledger.handled))
            progress.update(dead, completed=bus.stats()[FLIGHTS.name].dead_lettered)
            progress.update(counted, completed=ledger.counted)

        yield move


def show(books: Books, console: Console, *, at_most_once: bool) -> None:
    console.print()
    console.print(_totals(books, at_most_once=at_most_once))
    console.print()
    console.print(_delays(books))


def _totals(books: Books, *, at_most_once: bool) -> Table:
    table = _table("messages", "")
    rows: list[tuple[RenderableType, str]] = [
        ("read", f"{books.ledger.read:,}"),
        ("sent", f"{books.sent:,}"),
        ("handled once", f"{books.handled:,}"),
        ("duplicates skipped", f"{books.skipped:,}"),
        ("retried", f"{books.retried:,}"),
        ("dead-lettered", f"{len(books.dead):,}"),
        *(
            (Padding(Text(reason), (0, 0, 0, 2)), f"{number:,}")
            for reason, number in books.dead_by_reason.most_common()
        ),
    ]
    if at_most_once:
        rows.append(("lost", f"{books.lost:,}"))
    rows.append(("counted", f"{books.ledger.counted:,}"))
    rows.append(("messages per second", f"{books.sent / books.seconds:,.0f}"))
    for name, value in rows:
        table.add_row(name, value)
    return table


def _delays(books: Books) -> Table:
    table = _table("carrier", "departures", "mean delay, min")
    for carrier, mean in sorted(books.ledger.delays.items()):
        table.add_row(carrier, f"{mean.count:,}", f"{mean.value:.1f}")
    return table


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, max_width=60)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table

"""The command line: `python -m examples.flights --help`. It needs the extra `cli`, for the bars and the tables."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from examples.flights import report
from examples.flights.job import Standstill, run
from examples.flights.leftovers import NotEmpty
from unibus import UnibusError, UnsupportedCapability

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    url: Annotated[str, typer.Option(metavar="URL", help="The broker.")] = "memory://flights",
    at_most_once: Annotated[
        bool, typer.Option("--at-most-once", help="Accept a broker that can lose messages, and count the lost ones.")
    ] = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="First throw away what an earlier run left in the queues and groups.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Draws which flights are sent twice, and which fail once.")] = 1,
    concurrency: Annotated[int, typer.Option(min=1, help="How many messages each handler works on at once.")] = 50,
    patience: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="How long nothing may happen before the job gives up.")
    ] = 300.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the books as one JSON object on the last line, and no tables.")
    ] = False,
) -> None:
    """Send a month of real flights through a broker, and check the books.

    27,004 flights go to the queue [cyan]flights[/], some of them twice. A handler
    publishes each departure once, whatever fails and whatever comes again.
    Two groups listen: one keeps the mean delay per carrier, one counts. The
    521 cancelled flights end in [cyan]flights.dlq[/].

    The exit code is 0 only if every message is accounted for.

    [bold]Examples[/]
      [cyan]python -m examples.flights[/]
      [cyan]python -m examples.flights --url 'memory://flights?model=log'[/]
      [cyan]python -m examples.flights --json | tail -1[/]
    """
    # A dead letter is a warning, and 521 of them are meant to be.
    logging.getLogger("unibus.consumer").setLevel(logging.ERROR)
    progress, console = Console(stderr=True), Console()
    try:
        with report.bars(progress) as move:
            books = asyncio.run(
                run(
                    url,
                    seed=seed,
                    concurrency=concurrency,
                    at_most_once=at_most_once,
                    purge=purge,
                    patience=patience,
                    on_progress=move,
                )
            )
    except UnsupportedCapability as error:
        _fail([str(error)] if at_most_once else [str(error), "if it may lose messages, say --at-most-once"])
    except (NotEmpty, Standstill, UnibusError) as error:
        _fail([str(error)])
    if as_json:
        typer.echo(json.dumps(books.as_json()))
    else:
        report.show(books, console, at_most_once=at_most_once)
    problems = books.problems(at_most_once=at_most_once)
    if problems:
        _fail(["the books do not balance", *problems])
    if not as_json:
        console.print("\n[bold green]The books balance.[/]")


def _fail(lines: list[str]) -> NoReturn:
    for line in lines:
        typer.echo(f"{typer.style('error:', fg=typer.colors.RED, bold=True)} {line}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m examples.flights")

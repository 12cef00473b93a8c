"""How the commands speak: a table or JSON on stdout, an error as one line on stderr."""

from __future__ import annotations

import json
import traceback as tracebacks
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from unibus import UnibusError

EXIT_ERROR = 2


@contextmanager
def errors_in_one_line(*, traceback: bool) -> Iterator[None]:
    """What unibus says is enough for the user; where it came from is for those who ask for it."""
    try:
        yield
    except UnibusError as error:
        if traceback:
            tracebacks.print_exception(error)
        label = typer.style("error:", fg=typer.colors.RED, bold=True)
        typer.echo(f"{label} {error}", err=True)
        raise typer.Exit(EXIT_ERROR) from error


def print_json(content: object) -> None:
    typer.echo(json.dumps(content, indent=2))


def print_json_line(content: object) -> None:
    """For what comes again and again: one document a line."""
    typer.echo(json.dumps(content))

"""The commands of `unibus dlq` and their options."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from unibus import ConfigurationError
from unibus.cli.reporting import errors_in_one_line

dlq = typer.Typer(rich_markup_mode="rich", no_args_is_help=True)

First = Annotated[
    str,
    typer.Argument(
        metavar="[URL] NAME",
        show_default=False,
        help="The broker, unless the configuration names it. Whose dead letters: [cyan]orders[/] or "
        "[cyan]group:email[/]; or where they lie: [cyan]orders.dlq[/], [cyan]dlq:rejected[/].",
    ),
]
Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", show_default=False, help="Only these letters; the end of an id will do."),
]
Where = Annotated[
    list[str],
    typer.Option(
        "--where",
        "-w",
        metavar="CONDITION",
        help="Only letters for which this holds; several must all hold. Fields are error, age, attempts, source, text, "
        "reason, replays, handler, host, id, key, topic and type.",
    ),
]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, metavar="N", help="N letters at most.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from, not just its message.")]


@dlq.callback()
def about() -> None:
    """Look at dead letters, replay them, purge them.

    [bold]Examples[/]
      [cyan]unibus dlq ls amqp://localhost orders[/]
      [cyan]unibus dlq show amqp://localhost orders 4f2a77c0d1e9[/]
      [cyan]unibus dlq replay amqp://localhost orders --where error=Timeout --rate 50[/]
      [cyan]unibus dlq purge amqp://localhost group:email --where 'age>30d'[/]

    [bold]Conditions[/] are a field, an operator and a value:
      [cyan]error=KeyError|ValueError[/]   one of these, [cyan]!=[/] none of them
      [cyan]text~refused[/]                in reason, stack, headers, payload; [cyan]!~[/] not in
      [cyan]age>2h[/]                      s, m, h, d and w are units
      [cyan]attempts>=4[/]                 also [cyan]replays[/], with = != < <= > >=

    Consumers may run meanwhile. Run one of these at a time on a queue: of two
    at once each sees a part of the letters.
    """


@dlq.command("ls")
def ls(
    first: First,
    rest: Ids = None,
    where: Where = [],  # noqa: B006 - typer copies it
    limit: Limit = 50,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """List dead letters, the oldest first.

    They stay where they are. Where the broker cannot be browsed they are
    received and given back, which it says.
    """
    from unibus.cli.dlq import Asked, list_letters, run

    with errors_in_one_line(traceback=traceback):
        code = run(
            [first, *(rest or ())], lambda bus, name, ids: list_letters(bus, Asked(name, ids, where, limit, json))
        )
    raise typer.Exit(code)


@dlq.command("show")
def show(
    first: First,
    rest: Ids = None,
    where: Where = [],  # noqa: B006 - typer copies it
    body: Annotated[bool, typer.Option("--body", help="Write the bytes of the payload as they are.")] = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Show letters in full: record, headers, payload, stack.

    Without an id it is the first one that the conditions leave.
    """
    from unibus.cli.dlq import Asked, run, show_letters

    with errors_in_one_line(traceback=traceback):
        code = run(
            [first, *(rest or ())],
            lambda bus, name, ids: show_letters(bus, Asked(name, ids, where, None, json), body=body),
        )
    raise typer.Exit(code)


@dlq.command("replay")
def replay(
    first: First,
    rest: Ids = None,
    where: Where = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    rate: Annotated[float | None, typer.Option(metavar="N", help="N letters a second at most.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Those, too, that were replayed three times already.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Send letters back to the consumer whose they were, and to nobody else.

    Body, headers, key and id are as they were, attempts begin afresh. A letter
    leaves once its replay is confirmed. What fails again meanwhile waits for
    the next run; what was replayed three times stays. Ctrl-C ends it in good
    order. Exit code 1 if a letter that was meant is still there.
    """
    from unibus.cli.dlq import Asked, replay_letters, run

    with errors_in_one_line(traceback=traceback):
        code = run(
            [first, *(rest or ())],
            lambda bus, name, ids: replay_letters(
                bus, Asked(name, ids, where, limit, json), rate=rate, force=force, dry_run=dry_run
            ),
        )
    raise typer.Exit(code)


@dlq.command("purge")
def purge(
    first: First,
    rest: Ids = None,
    where: Where = [],  # noqa: B006 - typer copies it
    limit: Limit = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Delete letters for good, after asking."""
    from unibus.cli.dlq import Asked, purge_letters, run

    def sure(question: str) -> bool:
        if yes:
            return True
        if not sys.stdin.isatty():
            raise ConfigurationError(f"{question} Nobody is there to ask: say --yes")
        return typer.confirm(question, err=True)

    with errors_in_one_line(traceback=traceback):
        code = run(
            [first, *(rest or ())],
            lambda bus, name, ids: purge_letters(bus, Asked(name, ids, where, limit, json), sure=sure, dry_run=dry_run),
        )
    raise typer.Exit(code)

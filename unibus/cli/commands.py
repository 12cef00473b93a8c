"""The commands and their options. What they do is in the module of the same name."""

from __future__ import annotations

from enum import StrEnum
from importlib.metadata import version
from typing import Annotated

import typer

from unibus.cli.dlq_commands import dlq
from unibus.cli.reporting import errors_in_one_line

app = typer.Typer(
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(dlq, name="dlq")

Target = Annotated[str, typer.Argument(metavar="MODULE:ATTRIBUTE", help="Where the Bus is, e.g. [cyan]app:bus[/].")]
Traceback = Annotated[bool, typer.Option("--traceback", help="Show where an error came from, not just its message.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class LogLevel(StrEnum):
    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"unibus {version('unibus')}")
        raise typer.Exit


@app.callback()
def unibus(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Run message consumers, and look at what a broker can do for them.

    [bold]Start here[/]
      [cyan]unibus run app:bus[/]               consume what the handlers in app.py ask for
      [cyan]unibus check memory:// app:bus[/]   would that work on this broker?
      [cyan]unibus depth amqp://… orders[/]     how full is that queue?
      [cyan]unibus dlq ls amqp://… orders[/]    what failed for good, and why?
      [cyan]unibus adapters[/]                  which brokers can be reached from here?
      [cyan]unibus --install-completion[/]      let the shell complete all of this

    A URL names the broker: [cyan]--url[/], else UNIBUS_URL in the environment,
    else unibus.toml, else \\[tool.unibus] in pyproject.toml.
    """


@app.command()
def run(
    target: Target,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="The broker to use, whatever the configuration says.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=1024, metavar="N", help="Run N processes, and start again those that die."),
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="For development: start again whenever a .py or .toml file changes.")
    ] = False,
    health_port: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65535,
            metavar="P",
            help="Answer http://127.0.0.1:P/live and /ready with 200 or 503 and JSON. "
            "A worker answers for itself alone: with --workers they take P, P+1, P+2 and so on.",
        ),
    ] = None,
    log_level: Annotated[
        LogLevel,
        typer.Option(
            metavar="LEVEL",
            help="Log to stderr from debug, info, warning or error on, unless the program sets up logging itself.",
        ),
    ] = LogLevel.info,
    traceback: Traceback = False,
) -> None:
    """Consume messages until told to stop.

    SIGTERM or Ctrl-C: nothing new is fetched, handlers finish within the
    grace period, what never started is given back. A second signal lets go
    at once. Exit code 0 if everything in hand was finished, 1 if not, 2 if
    the bus could not start.

    With [cyan]--workers[/] a process that dies starts again, after a pause that
    grows. One that dies over ten times in five minutes ends them all.

    [bold]Examples[/]
      [cyan]unibus run app:bus[/]
      [cyan]unibus run app:bus --workers 4 --health-port 8000[/]
      [cyan]unibus run app:bus --url memory:// --reload[/]
    """
    from unibus.cli.run import run_bus
    from unibus.cli.worker import Work

    with errors_in_one_line(traceback=traceback):
        work = Work(target, url=url, health_port=health_port, log_level=log_level.value, traceback=traceback)
        code = run_bus(work, workers=workers, reload=reload)
    raise typer.Exit(code)


@app.command()
def check(
    url: Annotated[str, typer.Argument(metavar="URL", help="The broker, e.g. [cyan]memory://[/].")],
    target: Annotated[
        str | None,
        typer.Argument(metavar="MODULE:ATTRIBUTE", help="A Bus to judge by it, e.g. [cyan]app:bus[/]."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Connect to nothing; show the best that any broker of the kind can do.")
    ] = False,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Show what a broker can do, and whether that is enough for an app.

    [green]native[/]: the broker does it. [cyan]emulated[/]: unibus does it on top, as promised.
    [red]none[/]: what asks for it is refused at start-up, never ignored.

    With an app there is one line for each thing that a handler or a producer
    asks for, and the exit code is 1 if one of them is unsupported. Nothing is
    declared, sent or consumed.

    [bold]Examples[/]
      [cyan]unibus check memory://[/]
      [cyan]unibus check 'memory://?model=log' app:bus[/]
      [cyan]unibus check memory:// app:bus --json[/]
    """
    from unibus.cli.check import check_url

    with errors_in_one_line(traceback=traceback):
        supported = check_url(url, target, offline=offline, as_json=json)
    raise typer.Exit(0 if supported else 1)


@app.command()
def forward(
    url: Annotated[str, typer.Argument(metavar="URL", help="The broker.")],
    log_level: Annotated[
        LogLevel, typer.Option(metavar="LEVEL", help="Log to stderr from debug, info, warning or error on.")
    ] = LogLevel.info,
    traceback: Traceback = False,
) -> None:
    """Move delayed messages to their queues when they are due.

    Some brokers leave that to their clients. Consumers do it for what they
    consume; this does it for all queues, while their consumers are away.
    Several may run at once. SIGTERM or Ctrl-C ends it; nothing is lost.
    """
    from unibus.cli.forward import forward_url

    with errors_in_one_line(traceback=traceback):
        forward_url(url, log_level=log_level.value)


@app.command()
def depth(
    first: Annotated[
        str,
        typer.Argument(
            metavar="[URL] NAME",
            help="The broker, unless the configuration names it, and a queue or a group: [cyan]orders[/], "
            "[cyan]orders.dlq[/], [cyan]group:email[/], and on a log [cyan]group:email=user.*,order.created[/].",
        ),
    ],
    rest: Annotated[list[str] | None, typer.Argument(metavar="NAME", show_default=False, help="More of them.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, metavar="SECONDS", help="How often, with --watch.")] = 2.0,
    json: Json = False,
    traceback: Traceback = False,
) -> None:
    """Show how full queues and groups are.

    A dash is what the broker does not tell. Exit code 1 if one is not there.

    [bold]Examples[/]
      [cyan]unibus depth redis://localhost orders orders.dlq group:email[/]
      [cyan]unibus depth redis://localhost orders --watch --json[/]
    """
    from unibus.cli.depth import show_depth

    with errors_in_one_line(traceback=traceback):
        code = show_depth([first, *(rest or ())], every=every if watch else None, as_json=json)
    raise typer.Exit(code)


@app.command()
def adapters(json: Json = False, traceback: Traceback = False) -> None:
    """List the brokers that can be reached from here.

    One line for each URL scheme: the distribution that brings it, and whether
    its client library is installed.
    """
    from unibus.cli.adapters import list_adapters

    with errors_in_one_line(traceback=traceback):
        list_adapters(as_json=json)

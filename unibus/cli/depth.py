"""`unibus depth`: how full queues and groups are, once or again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from unibus import Bus, ConfigurationError, DestinationNotFound, TopicSubscription
from unibus.cli.opening import EXIT_INTERRUPTED, split_url, with_bus
from unibus.cli.printable import age
from unibus.cli.reporting import print_json, print_json_line
from unibus.dead_letters.letter import GROUP
from unibus.driver import Depth, Source

_COLUMNS = ("ready", "in flight", "delayed", "oldest")


def show_depth(words: Sequence[str], *, every: float | None, as_json: bool) -> int:
    """every: seconds between two looks, None for one alone. Exit code 1 if something is not there."""
    url, names = split_url(words, "whose depth")
    code = with_bus(url, lambda bus: watch_depth(bus, names, every=every, as_json=as_json))
    # A signal is how watching ends.
    return code if code is not None else 0 if every is not None else EXIT_INTERRUPTED


async def watch_depth(bus: Bus, names: Sequence[str], *, every: float | None, as_json: bool) -> int:
    sources = {name: source_of(bus, name) for name in names}
    if every is None:
        found = await _ask(bus, sources)
        if as_json:
            print_json(_content(found))
        else:
            Console().print(_table(found))
        return 0 if all(depth is not None for depth in found.values()) else 1
    console = Console()
    if as_json or not console.is_terminal:
        while True:
            found = await _ask(bus, sources)
            print_json_line(_content(found)) if as_json else console.print(_table(found))
            await asyncio.sleep(every)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_table(await _ask(bus, sources)), refresh=True)
            await asyncio.sleep(every)


def source_of(bus: Bus, name: str) -> Source:
    """A queue, `group:email`, or `group:email=user.*,order.#` with what the group subscribes to.

    On a log a group's backlog lies in the topics that it reads, so that those must be known.
    """
    if not name.startswith(GROUP):
        return bus.session.addresses.queue(name)
    group, said, patterns = name.removeprefix(GROUP).partition("=")
    if not said and bus.session.capabilities.positional:
        raise ConfigurationError(
            f"{name}: on this broker a group's messages lie in its topics; say what it subscribes to, "
            f"e.g. {GROUP}{group}=user.*,order.created"
        )
    return TopicSubscription(tuple(patterns.split(",")) if said else ("#",), group)


async def _ask(bus: Bus, sources: dict[str, Source]) -> dict[str, Depth | None]:
    """None for what is not there."""

    async def one(source: Source) -> Depth | None:
        try:
            return await bus.driver.depth(source)
        except DestinationNotFound:
            return None

    return dict(zip(sources, await asyncio.gather(*map(one, sources.values())), strict=True))


def _content(found: dict[str, Depth | None]) -> list[dict[str, object]]:
    return [
        {"name": name, "exists": depth is not None, **(asdict(depth) if depth is not None else {})}
        for name, depth in found.items()
    ]


def _table(found: dict[str, Depth | None]) -> Table:
    """A dash: the broker does not tell."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in _COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name, depth in found.items():
        if depth is None:
            table.add_row(Text(name), Text("not there", style="red"))
        else:
            oldest = "-" if depth.oldest_age is None else age(depth.oldest_age)
            table.add_row(Text(name), f"{depth.ready:,}", _figure(depth.in_flight), _figure(depth.delayed), oldest)
    return table


def _figure(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"

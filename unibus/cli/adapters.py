"""`unibus adapters`: what is installed, and whether it can be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unibus.cli.reporting import print_json
from unibus.registry import Adapter, adapters


def list_adapters(*, as_json: bool) -> None:
    found = adapters()
    if as_json:
        print_json([asdict(adapter) for adapter in found])
    else:
        Console().print(_table(found))


def _table(found: Sequence[Adapter]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scheme", no_wrap=True)
    table.add_column("from", no_wrap=True)
    table.add_column("entry point", no_wrap=True)
    table.add_column("usable", overflow="fold")
    for adapter in found:
        usable = "[green]yes[/]" if adapter.error is None else f"[yellow]no[/]: {escape(adapter.error)}"
        table.add_row(f"{adapter.scheme}://", adapter.distribution, adapter.value, usable)
    return table

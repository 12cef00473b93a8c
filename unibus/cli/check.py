"""`unibus check`: what a broker can do, and whether that is enough for an app."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unibus.cli.loading import load_bus
from unibus.cli.reporting import print_json
from unibus.cli.rows import capability_rows
from unibus.driver import Capabilities, SystemClock, Url
from unibus.negotiation import Requirement, Verdict, judge
from unibus.registry import connect

_STYLES = {"native": "green", "emulated": "cyan", "none": "dim"}


def check_url(text: str, target: str | None, *, offline: bool, as_json: bool) -> bool:
    """Print the tables; False if the app asks for something that the broker cannot do."""
    url = Url(text)
    # The app first: a mistake in it needs no broker to be found.
    requirements = _asked_by(target, text) if target is not None else None
    capabilities = asyncio.run(_ask(url, offline=offline))
    verdicts = judge(requirements, capabilities) if requirements is not None else None
    supported = all(verdict.support != "none" or not verdict.required for verdict in verdicts or ())
    if as_json:
        print_json(_content(url, capabilities, verdicts, offline=offline, supported=supported))
        return supported
    console = Console()
    known = "at best" if offline else "as it answered"
    console.print(Text(f"{url} ({known})", style="bold"))
    console.print(_capability_table(capabilities))
    if verdicts is not None:
        console.print()
        console.print(Text(f"{target} on it", style="bold"))
        console.print(_verdict_table(verdicts))
        if not supported:
            console.print(Text("Not everything is supported: the bus will refuse to start here.", style="red"))
    return supported


def _asked_by(target: str, url: str) -> list[Requirement]:
    bus = load_bus(target)
    bus.configure(url=url)
    return bus.requirements()


async def _ask(url: Url, *, offline: bool) -> Capabilities:
    driver = connect(url, SystemClock())
    if offline:
        return driver.capabilities
    await driver.open()
    try:
        return driver.capabilities
    finally:
        await driver.close()


def _content(
    url: Url, capabilities: Capabilities, verdicts: Sequence[Verdict] | None, *, offline: bool, supported: bool
) -> dict[str, object]:
    content: dict[str, object] = {"url": str(url), "exact": not offline, "capabilities": asdict(capabilities)}
    if verdicts is not None:
        content["requirements"] = [
            {
                "subject": verdict.subject,
                "asks": verdict.asks,
                "support": verdict.support,
                "note": verdict.note,
                "required": verdict.required,
            }
            for verdict in verdicts
        ]
        content["supported"] = supported
    return content


def _capability_table(capabilities: Capabilities) -> Table:
    table = _table("capability", "support", "in detail")
    for row in capability_rows(capabilities):
        # A detail of what is not there would read as if it were.
        detail = "" if row.support == "none" else row.detail
        support = Text("") if row.support is None else Text(row.support, style=_STYLES[row.support])
        table.add_row(row.name, support, detail)
    return table


def _verdict_table(verdicts: Sequence[Verdict]) -> Table:
    table = _table("who", "asks for", "support", "note")
    last = ""
    for verdict in verdicts:
        who, last = "" if verdict.subject == last else verdict.subject, verdict.subject
        table.add_row(Text(who), Text(verdict.asks), _judged(verdict), Text(verdict.note))
    if not verdicts:
        table.add_row("nobody", "anything", "", "")
    return table


def _judged(verdict: Verdict) -> Text:
    """What is lacking is an error only where the program cannot do without."""
    if verdict.support == "none":
        return Text("unsupported", style="red") if verdict.required else Text("none", style="yellow")
    return Text(verdict.support, style=_STYLES[verdict.support])


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    return table

"""What the benchmarks of all brokers have in common: their command line, and the scenarios one after another."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass

from tests.benchmarks import table
from tests.benchmarks.contest import Contender, Results, TurnFailed, hold
from tests.benchmarks.load import Figures


@dataclass(frozen=True)
class Scenario:
    """One contest. The first of the contenders is the measure of the others."""

    title: str
    about: str
    contenders: tuple[Contender, ...]
    turn: Callable[[Contender], Awaitable[Figures]]


def arguments(module: str, about: str | None, url: str, names: Collection[str], count: int) -> argparse.ArgumentParser:
    """url: what may be given as one. names: of the scenarios."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", nargs="?", help=url)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=count, help=f"messages a turn, {count:,} by default")
    parser.add_argument("--only", choices=names, help="without: all scenarios")
    parser.add_argument("--markdown", action="store_true", help="print tables for a document")
    return parser


def hold_all(scenarios: Iterable[Scenario], given: argparse.Namespace) -> int:
    """The exit code. Each table is printed as soon as it is there."""
    show = table.markdown if given.markdown else table.terminal
    try:
        for scenario in scenarios:
            about = f"{scenario.about}; {given.count:,} messages, median of {given.rounds}"
            results = hold(Results(scenario.title, about), scenario.contenders, given.rounds, scenario.turn)
            print(show(asyncio.run(results)), flush=True)
    except TurnFailed as error:
        print(error, file=sys.stderr)
        return 1
    return 0

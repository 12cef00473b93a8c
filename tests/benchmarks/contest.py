"""Contenders in turn, each in a process of its own, for several rounds.

The machine gets slower and faster meanwhile. So the contenders of one round run close together, the
order is another in each round, and what counts is a contender's ratio to the first in the same round.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final

from tests.benchmarks.load import Figures
from tests.benchmarks.task import IMPOSSIBLE, Impossible, Task

TURN_TIMEOUT: Final = 300.0


class TurnFailed(RuntimeError):
    """A contender broke, was too slow, or lost something: there is nothing to compare."""


@dataclass(frozen=True)
class Contender:
    """package: the distribution on trial, whose version is told. module: where its turns are, as functions."""

    name: str
    package: str
    module: str

    @property
    def version(self) -> str | None:
        """None if it is not installed."""
        try:
            return metadata.version(self.package)
        except metadata.PackageNotFoundError:
            return None

    async def run(self, function: str, task: Task) -> Figures:
        """Raises Impossible, or TurnFailed with what it printed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.benchmarks.contender", self.module, function),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            said = await asyncio.wait_for(process.communicate(task.to_json().encode()), TURN_TIMEOUT)
        except TimeoutError:
            raise TurnFailed(f"{self.name} did not end its {function} within {TURN_TIMEOUT:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        output, errors = (text.decode() for text in said)
        if process.returncode == IMPOSSIBLE:
            raise Impossible(output.strip())
        if process.returncode != 0:
            raise TurnFailed(f"{self.name} failed at {function}:\n{errors}")
        figures: Figures = json.loads(output.splitlines()[-1])
        return figures


@dataclass
class Results:
    """title and about: for the reader. rounds: figures of each round. absent: who has none, and why."""

    title: str
    about: str
    rounds: dict[Contender, list[Figures]] = field(default_factory=dict)
    absent: dict[Contender, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of the figures."""
        first, *_ = self.rounds.values()
        return list(first[0])

    def median(self, contender: Contender, name: str) -> float:
        return statistics.median(figures[name] for figures in self.rounds[contender])

    def ratios(self, contender: Contender, name: str) -> list[float]:
        """To the first contender, round by round."""
        first, *_ = self.rounds.values()
        return [ours[name] / theirs[name] for ours, theirs in zip(self.rounds[contender], first, strict=True)]


async def hold(
    results: Results, contenders: Sequence[Contender], rounds: int, turn: Callable[[Contender], Awaitable[Figures]]
) -> Results:
    """All rounds of one scenario. The first contender that takes part is the measure of the others."""
    results.absent = {contender: "not installed" for contender in contenders if contender.version is None}
    results.rounds = {contender: [] for contender in contenders if contender not in results.absent}
    for number in range(rounds):
        place = number % len(contenders)
        for contender in (*contenders[place:], *contenders[:place]):
            if contender in results.absent:
                continue
            try:
                results.rounds[contender].append(await turn(contender))
            except Impossible as reason:
                results.absent[contender] = str(reason)
                del results.rounds[contender]
            except (AssertionError, TimeoutError) as error:
                raise TurnFailed(f"{results.title}: {contender.name}: {error!r}") from error
    return results

"""`unibus dlq`: look at dead letters, replay and purge them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from unibus import Bus, ConfigurationError
from unibus.cli.letters import letter_details, letter_table
from unibus.cli.opening import EXIT_INTERRUPTED, split_url, with_bus
from unibus.cli.printable import one_line
from unibus.cli.reporting import EXIT_ERROR, print_json
from unibus.dead_letters.box import DeadLetters
from unibus.dead_letters.looking import lying
from unibus.dead_letters.report import Report

_SHOWN_REASONS = 10
WIDE = 10_000
"""Columns of what is no terminal: nothing is cut off that somebody may look for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which letters, and how to show them. name: whose, as `Bus.dead_letters` takes it."""

    name: str
    ids: Sequence[str] = ()
    where: Sequence[str] = ()
    limit: int | None = None
    as_json: bool = False


def run(words: Sequence[str], work: Callable[[Bus, str, Sequence[str]], Awaitable[int]]) -> int:
    """The exit code of the work, which gets whose letters and which ids the words name."""
    url, (name, *ids) = split_url(words, "whose dead letters")
    code = with_bus(url, lambda bus: work(bus, name, ids))
    return EXIT_INTERRUPTED if code is None else code


# --- looking ----------------------------------------------------------------------------------------------


async def list_letters(bus: Bus, asked: Asked) -> int:
    box = bus.dead_letters(asked.name)
    count = lying(await box.depth())
    letters = await box.browse(asked.where, ids=asked.ids, limit=asked.limit)
    if asked.as_json:
        found = [letter.to_dict() for letter in letters]
        print_json({"queue": box.queue.name, "depth": count, "browsed": box.can_browse, "letters": found})
        return 0
    console = _console()
    console.print(Text(f"{box.queue}: {_letters(count)}", style="bold"), end="")
    shown = "" if len(letters) == count else f", {len(letters)} shown"
    console.print(shown, highlight=False)
    if letters:
        console.print(letter_table(letters, console.width))
    _say_how(box)
    return 0


async def show_letters(bus: Bus, asked: Asked, *, body: bool) -> int:
    box = bus.dead_letters(asked.name)
    # Of several ids each is one letter; without one it is the first that there is.
    letters = await box.browse(asked.where, ids=asked.ids, limit=None if asked.ids else 1)
    if not letters or len(letters) < len(set(asked.ids)):
        raise ConfigurationError(
            f"{box.queue} has {len(letters)} of the letters that are meant; `unibus dlq ls` shows what is there"
        )
    if body:
        if len(letters) > 1:
            raise ConfigurationError(f"{len(letters)} letters are meant; --body writes the bytes of one")
        sys.stdout.buffer.write(letters[0].body or b"")
        sys.stdout.buffer.flush()
    elif asked.as_json:
        print_json([letter.to_dict() for letter in letters])
    else:
        console = _console()
        for letter in letters:
            console.print(letter_details(letter))
        _say_how(box)
    return 0


def _say_how(box: DeadLetters) -> None:
    if not box.can_browse:
        note = "This broker cannot be browsed: letters were received and given back, the first 1,000 at most."
        Console(stderr=True).print(Text(note, style="dim"))


# --- acting -----------------------------------------------------------------------------------------------


async def replay_letters(bus: Bus, asked: Asked, *, rate: float | None, force: bool, dry_run: bool) -> int:
    box = bus.dead_letters(asked.name)

    async def work(progress: Callable[[Report], None]) -> Report:
        return await box.replay(
            asked.where, ids=asked.ids, limit=asked.limit, rate=rate, force=force, dry_run=dry_run, progress=progress
        )

    return await _act(box, work, "replayed", "would be replayed", asked)


async def purge_letters(bus: Bus, asked: Asked, *, sure: Callable[[str], bool], dry_run: bool) -> int:
    """sure: asked before anything is deleted."""
    box = bus.dead_letters(asked.name)
    if not dry_run:
        count = lying(await box.depth())
        meant = "all" if not (asked.where or asked.ids or asked.limit) else "those that are meant"
        if count and not sure(f"Delete {meant} of {_letters(count)} of {box.queue}? They are gone for good."):
            return EXIT_ERROR

    async def work(progress: Callable[[Report], None]) -> Report:
        return await box.purge(
            asked.where, ids=asked.ids, limit=asked.limit, dry_run=dry_run, progress=progress
        )  # fmt: skip

    return await _act(box, work, "purged", "would be purged", asked)


async def _act(
    box: DeadLetters,
    work: Callable[[Callable[[Report], None]], Awaitable[Report]],
    done: str,
    would_be: str,
    asked: Asked,
) -> int:
    report = Report()

    def note(latest: Report) -> None:
        nonlocal report
        report = latest

    try:
        with _bar(f"{box.queue}", note, visible=not asked.as_json) as progress:
            report = await work(progress)
    except (Exception, asyncio.CancelledError):
        report.stopped = report.stopped or "interrupted"
        raise
    finally:
        if asked.as_json:
            print_json({"queue": box.queue.name, **asdict(report), "complete": report.complete})
        else:
            _console().print(_summary(box, report, would_be if report.dry_run else done))
    return 0 if report.complete else 1


@contextmanager
def _bar(
    title: str, note: Callable[[Report], None], *, visible: bool
) -> Iterator[Callable[[Report], None]]:  # fmt: skip
    """On stderr, and only where somebody looks at it."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not (visible and console.is_terminal)) as bar:
        task = bar.add_task(title, total=None)

        def progress(report: Report) -> None:
            note(report)
            bar.update(task, completed=report.seen, total=report.total)

        yield progress


def _summary(box: DeadLetters, report: Report, done: str) -> Text:
    lines = [Text(f"{report.done:,} of {_letters(report.total)} of {box.queue} {done}", style="bold")]
    if report.unmatched:
        lines.append(Text(f"{report.unmatched:,} not meant"))
    if report.tired:
        lines.append(Text(f"{report.tired:,} replayed three times already: they stay; --force replays them", "yellow"))
    if report.unsettled:
        lines.append(Text(f"{report.unsettled} of them may still be there: the broker had taken them back", "yellow"))
    if report.failed:
        lines.append(Text(f"{report.failed:,} could not be, and stay:", "red"))
        for letter_id, reason in list(report.reasons.items())[:_SHOWN_REASONS]:
            lines.append(Text(f"  {one_line(letter_id)}: {one_line(reason)}"))
        if report.failed > _SHOWN_REASONS:
            lines.append(Text(f"  and {report.failed - _SHOWN_REASONS} more"))
    if report.stopped:
        lines.append(Text(f"not all were seen: {one_line(report.stopped)}", "red"))
    return Text("\n").join(lines)


def _letters(count: int) -> str:
    return f"{count:,} dead letter" + ("" if count == 1 else "s")


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE)

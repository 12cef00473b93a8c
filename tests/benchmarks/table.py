"""Results as a table, for a terminal or as Markdown."""

from __future__ import annotations

import statistics
from itertools import chain

from tests.benchmarks.contest import Contender, Results


def terminal(results: Results) -> str:
    rows = [_head(results), *_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in [list(zip(row, widths, strict=True)) for row in rows]
    ]
    lines += _absent(results)
    return "\n".join([f"{results.title}: {results.about}", *(f"  {line}".rstrip() for line in lines), ""])


def markdown(results: Results) -> str:
    head = _head(results)
    rows = [head, ["---" if column < 2 else "---:" for column in range(len(head))], *_rows(results)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join([f"**{results.title}**: {results.about}", table, *_absent(results)]) + "\n"


def _head(results: Results) -> list[str]:
    first = next(iter(results.rounds)).name
    columns = [(name, f"x {first}", "lowest - highest") for name in results.names]
    return ["contender", "version", *chain.from_iterable(columns)]


def _rows(results: Results) -> list[list[str]]:
    return [_row(results, contender) for contender in results.rounds]


def _row(results: Results, contender: Contender) -> list[str]:
    row = [contender.name, f"{contender.package} {contender.version}"]
    for name in results.names:
        ratios = results.ratios(contender, name)
        row.append(f"{results.median(contender, name):,.0f}")
        row.append(f"{statistics.median(ratios):.2f}")
        row.append(f"{min(ratios):.2f} - {max(ratios):.2f}")
    return row


def _absent(results: Results) -> list[str]:
    return [f"without {contender.name}: {reason}" for contender, reason in results.absent.items()]

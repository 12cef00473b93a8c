"""The table of a run: what each fault did on each server."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class Row:
    """A dash where a figure has no meaning for the fault, or was not reached."""

    fault: str
    server: str
    n: int
    seed: int
    confirmed: int | str = "-"
    unknown: int | str = "-"
    handled: int | str = "-"
    lost: str = "-"
    duplicates: str = "-"
    effects: str = "-"
    recovery: str = "-"
    seconds: str = "-"
    outcome: str = "FAILED"


@dataclass(slots=True)
class Matrix:
    count: int
    seed: int
    rows: list[Row] = field(default_factory=list)

    def lines(self) -> list[str]:
        columns = [column.name for column in fields(Row)]
        table = [columns, *[[_shown(getattr(row, column)) for column in columns] for row in self.rows]]
        widths = [max(len(line[place]) for line in table) for place in range(len(columns))]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
        ]


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and value < 1_000_000 else str(value)

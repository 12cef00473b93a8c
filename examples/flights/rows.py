"""The file: every flight that left New York City in January 2013, or should have."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path

from examples.flights.messages import FlightRow

FILE = Path(__file__).parent / "data" / "flights-2013-01.csv.gz"

# Counted by other means than this program's, so that the books have something to be held against.
ROWS = 27_004
DEPARTED = 26_483
CANCELLED = 521


def read_rows() -> Iterator[FlightRow]:
    """One at a time: the file is never in memory as a whole."""
    with gzip.open(FILE, "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            yield FlightRow.model_validate({name: value or None for name, value in row.items()})

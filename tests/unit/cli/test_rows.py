"""The rows that describe a broker leave nothing out and read well."""

from __future__ import annotations

import dataclasses

import pytest

from unibus.cli.rows import Row, capability_rows, duration, size
from unibus.driver import Capabilities, Delay, Limits


def row(name: str, capabilities: Capabilities) -> Row:
    (found,) = [row for row in capability_rows(capabilities) if row.name == name]
    return found


def test_every_capability_is_in_one_row() -> None:
    told = [field for row in capability_rows(Capabilities()) for field in row.fields]
    assert sorted(told) == sorted(field.name for field in dataclasses.fields(Capabilities))


def test_support_is_passed_on() -> None:
    capabilities = Capabilities(groups="emulated", browse="native")
    assert row("groups", capabilities).support == "emulated"
    assert row("browse", capabilities).support == "native"
    assert row("patterns", capabilities).support == "none"
    assert row("queues", Capabilities(queue_guarantee="at_most_once")).detail == "at most once"


def test_delays_in_words() -> None:
    def detail(delay: Delay) -> str:
        return row("delayed messages", Capabilities(delay=delay)).detail

    assert detail(Delay("native", 900.0, 1.0)) == "up to 15 min, late by at most 1 s"
    assert detail(Delay("emulated", None, 0.1)) == "any delay, late by at most 100 ms"
    assert detail(Delay("native", None, 0.0)) == "any delay, to the moment"


def test_limits_in_words() -> None:
    wide = Capabilities(
        send=Limits(messages=10, bytes=262144, calls=100, min_messages=10), max_body=262144, lease=30.0, hold=1800.0
    )
    assert row("one send", wide).detail == ("10 messages, 256 KiB, 100 calls at once, the next from 10 messages")
    assert row("largest message", wide).detail == "256 KiB, without attributes and headers"
    counted = dataclasses.replace(wide, body_limit_counts_metadata=True)
    assert row("largest message", counted).detail == "256 KiB, with attributes and headers"
    assert row("lease of a delivery", wide).detail == "30 s, renewed while it is held"
    assert row("longest hold: to begin, handle, park", wide).detail == "30 min"
    assert row("longest hold: to begin, handle, park", Capabilities()).detail == "no limit"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (0.25, "250 ms"),
        (1.5, "1.5 s"),
        (90.0, "90 s"),
        (120.0, "2 min"),
        (3600.0, "1 h"),
        (604800.0, "7 d"),
        (104857.5, "29 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1000, "1,000 bytes"), (1024, "1 KiB"), (1 << 20, "1 MiB"), (1 << 30, "1 GiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text

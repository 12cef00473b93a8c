"""The README's table comes from a run, and only from one that bears it out."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from tests.contract.guarantees import COLUMNS, README, Unproved, incomplete, same, table
from unibus.driver import Capabilities


def report(**outcomes: str) -> dict[str, Any]:
    cases = {name: {"outcome": outcome} for name, outcome in {"a": "passed", "b": "skipped", **outcomes}.items()}
    facts = {"version": "9.9", "capabilities": asdict(Capabilities(groups="emulated", lease=30.0)), "cases": cases}
    return {harness: {**facts, "version": f"9.{place}"} for place, harness in enumerate(COLUMNS)}


def test_a_column_a_harness_with_what_it_can_and_what_was_tried() -> None:
    lines = table(report()).splitlines()
    assert lines[0].startswith("| | memory | memory, log model | RabbitMQ 9.2 | RabbitMQ 9.3 | Redis 9.4 |")
    rows = {cells[1].strip(): cells[2].strip() for cells in (line.split("|") for line in lines[2:])}
    assert rows["groups"].startswith("emulated: ")
    assert rows["browse"] == "no"
    assert rows["contract cases"] == "1 passed, 1 not for this broker"


def test_a_case_that_failed_bears_out_nothing() -> None:
    with pytest.raises(Unproved, match="failed c"):
        table(report(c="failed"))


def test_a_broker_that_was_not_there_bears_out_nothing() -> None:
    found = report()
    del found["RabbitHarness"]
    with pytest.raises(Unproved, match="no RabbitHarness"):
        table(found)


def test_every_column_is_in_the_readme() -> None:
    assert all(title.partition(" {")[0] in README.read_text() for title in COLUMNS.values())


def test_another_version_of_a_server_says_the_same_and_other_figures_do_not() -> None:
    found = table(report())
    assert same(found.replace("RabbitMQ 9.2", "RabbitMQ 4.1.7"), found)
    assert not same(found.replace("1 passed", "2 passed", 1), found)


def test_what_was_not_tried_for_want_of_a_server_of_our_own_is_known() -> None:
    found = report()
    assert not incomplete(found)
    found["RabbitHarness"]["cases"]["b"]["reason"] = "needs a server that it may restart"
    assert incomplete(found)

"""The README's program, the examples and the main job, with nothing but the URL changed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.brokers import Broker
from tests.examples.commands import python
from tests.examples.test_one_idea import ON_OTHER_BROKERS, assert_says
from tests.unit.test_readme import examples


def test_the_program_of_the_readme_prints_the_same(server: Broker, tmp_path: Path) -> None:
    code, output = examples()["orders.py"]
    (tmp_path / "orders.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "orders.py", server.url], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.stdout == output


@pytest.mark.parametrize("example", [*ON_OTHER_BROKERS, "ordering"])
def test_an_example_runs_with_nothing_but_its_url_changed(newest: Broker, example: str) -> None:
    assert_says(example, "--url", newest.url, essential=[])


@pytest.mark.timeout(300)
def test_the_flights_balance(server: Broker) -> None:
    ended = python("-m", "examples.flights", "--url", server.url, "--purge", "--json")
    assert ended.returncode == 0, ended.stderr
    books = json.loads(ended.stdout.splitlines()[-1])
    assert (books["read"], books["handled"], books["dead_lettered"], books["counted"]) == (27_004, 26_483, 521, 26_483)

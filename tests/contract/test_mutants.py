"""The contract suite goes red for every mutant, and is green on the same cases without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.contract.mutants import MUTANTS, VARIABLE, Mutant

ROOT = Path(__file__).parents[2]
SUITE = "tests/contract/test_memory.py"
TESTS_FAILED = 1
"""pytest's exit code for failed tests; others stand for errors of usage, import or collection."""


def run(classes: set[str], cases: str, mutant: str = "") -> subprocess.CompletedProcess[str]:
    nodes = [f"{SUITE}::{name}" for name in sorted(classes)]
    options = ["-q", "-x", "--tb=line", "--timeout=30", "-p", "no:cacheprovider", "-p", "tests.contract.mutants"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-k", cases, *nodes],
        cwd=ROOT, env={**os.environ, VARIABLE: mutant}, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """All of them, as many at once as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(run, {mutant.on}, mutant.cases, name) for name, mutant in MUTANTS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_notices(name: str, runs: dict[str, Future[subprocess.CompletedProcess[str]]]) -> None:
    ran = runs[name].result()
    assert ran.returncode == TESTS_FAILED, f"{name} survived:\n{ran.stdout}\n{ran.stderr}"
    failed = re.search(r"^FAILED \S+::(\S+)", ran.stdout, re.MULTILINE)
    assert failed, f"no case failed, something else did:\n{ran.stdout}\n{ran.stderr}"


@pytest.mark.slow
def test_the_same_cases_are_green_without_a_mutant() -> None:
    by_class: dict[str, list[Mutant]] = {}
    for mutant in MUTANTS.values():
        by_class.setdefault(mutant.on, []).append(mutant)
    for name, mutants in by_class.items():
        ran = run({name}, " or ".join(dict.fromkeys(mutant.cases for mutant in mutants)))
        assert ran.returncode == 0, ran.stdout
        assert "skipped" not in ran.stdout, f"a case that kills a mutant was skipped:\n{ran.stdout}"

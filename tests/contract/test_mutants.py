"""The contract suite goes red for every mutant, and is green on the same cases without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.contract.mutants import MUTANTS, VARIABLE

ROOT = Path(__file__).parents[2]
SUITE = "tests/contract/test_memory.py"
TESTS_FAILED = 1
"""pytest's exit code for failed tests; others stand for errors of usage, import or collection."""


Run: TypeAlias = Future[subprocess.CompletedProcess[str]]


def run(class_name: str, cases: str, mutant: str = "") -> subprocess.CompletedProcess[str]:
    options = ["-q", "-x", "--tb=line", "--timeout=30", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    options += ["-p", "no:xdist", "-p", "tests.contract.mutants"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-k", cases, f"{SUITE}::{class_name}"],
        cwd=ROOT, env={**os.environ, VARIABLE: mutant}, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """As many runs at once as there are processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield pool
        pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def runs(pool: ThreadPoolExecutor) -> dict[str, Run]:
    """Each mutant on the cases that it names."""
    return {name: pool.submit(run, mutant.on, mutant.cases, name) for name, mutant in MUTANTS.items()}


@pytest.fixture(scope="module")
def sound_runs(pool: ThreadPoolExecutor) -> dict[str, Run]:
    """All those cases without a mutant, by class."""
    cases: dict[str, dict[str, None]] = {}
    for mutant in MUTANTS.values():
        cases.setdefault(mutant.on, {})[mutant.cases] = None
    return {name: pool.submit(run, name, " or ".join(ones)) for name, ones in cases.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_suite_notices(name: str, sound_runs: dict[str, Run], runs: dict[str, Run]) -> None:
    ran = runs[name].result()
    assert ran.returncode == TESTS_FAILED, f"{name} survived:\n{ran.stdout}\n{ran.stderr}"
    failed = re.search(r"^FAILED \S+::(\S+)", ran.stdout, re.MULTILINE)
    assert failed, f"no case failed, something else did:\n{ran.stdout}\n{ran.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({mutant.on for mutant in MUTANTS.values()}))
def test_the_same_cases_are_green_without_a_mutant(name: str, sound_runs: dict[str, Run]) -> None:
    ran = sound_runs[name].result()
    assert ran.returncode == 0, ran.stdout
    assert "skipped" not in ran.stdout, f"a case that kills a mutant was skipped:\n{ran.stdout}"

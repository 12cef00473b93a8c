"""Options, the servers that are shared by all scenarios, and the table at the end."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.matrix import Matrix
from tests.faults.run import Run
from tests.faults.server import Ground, Server

MATRIX = pytest.StashKey[Matrix]()
TIMEOUT = 420
"""Seconds for 2,000 messages, with the longest that a broker may hold some up; more get more."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "unibus fault tests")
    group.addoption("--fault-count", type=int, default=2000, metavar="N", help="messages of each run (2000)")
    group.addoption("--fault-seed", type=int, metavar="SEED", help="of all that is left to chance (a random one)")


def pytest_configure(config: pytest.Config) -> None:
    # With defaults: loaded only once pytest looks for tests, this file is too late to add options.
    seed = config.getoption("--fault-seed", None)
    count = config.getoption("--fault-count", 2000)
    config.stash[MATRIX] = Matrix(count, random.randrange(1_000_000) if seed is None else seed)


def pytest_report_header(config: pytest.Config) -> str:
    matrix = config.stash[MATRIX]
    return f"faults: --fault-count {matrix.count} --fault-seed {matrix.seed}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    limit = TIMEOUT * max(1.0, config.stash[MATRIX].count / 5000)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(limit))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    matrix = config.stash[MATRIX]
    if matrix.rows:
        terminalreporter.section(f"faults: N = {matrix.count:,}, seed {matrix.seed}")
        for line in matrix.lines():
            terminalreporter.line(line)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of nobody: what plays SQS takes any. Processes of a run inherit them."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")


@pytest.fixture(scope="session")
def grounds() -> Callable[[Server], Ground]:
    """The ground of a server: one for all scenarios."""
    known: dict[str, Ground] = {}

    def ground(server: Server) -> Ground:
        if server.name not in known:
            known[server.name] = Ground(server)
        return known[server.name]

    return ground


@pytest.fixture
def run(server: Server, grounds: Callable[[Server], Ground], pytestconfig: pytest.Config, tmp_path: Path) -> Run:
    """One run on the server of the test's parameter."""
    ground = grounds(server)
    if not ground.broker.ours:
        pytest.skip("needs a server that it may kill")
    return Run(ground, pytestconfig.stash[MATRIX], tmp_path)

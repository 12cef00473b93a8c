"""The pytest plugin: the contract suite's `harness`, and `unibus_app` for tests of one's own handlers.

It is loaded into every pytest run where unibus is installed, so that it imports nothing heavy
before something asks for it, and async support is needed by the contract suite alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from unibus.testing.report import Report

pytest.register_assert_rewrite("unibus.testing.contract")

REPORT_OPTION = "--unibus-report"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("unibus", "unibus contract suite")
    group.addoption(
        REPORT_OPTION,
        metavar="FILE",
        type=Path,
        help="write which contract cases passed, failed or were skipped on which harness, as JSON",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("asyncio"):
        from unibus.testing import fixtures

        config.pluginmanager.register(fixtures, "unibus-fixtures")
    path = config.getoption(REPORT_OPTION)
    # With xdist the controller hears of every case; its workers need not write.
    if path is not None and not hasattr(config, "workerinput"):
        from unibus.testing.report import Report

        report: Report = Report(path)
        config.pluginmanager.register(report, "unibus-report")


@pytest.fixture
def harness() -> Any:
    """The harness of a contract class; needs pytest-asyncio, whose presence replaces this one."""
    pytest.fail("unibus's contract suite runs by pytest-asyncio: pip install pytest-asyncio", pytrace=False)


@pytest.fixture
def unibus_app() -> Callable[..., Any]:
    """`unibus.testing.app`: `async with unibus_app(bus) as t: …` runs a bus on memory with a movable clock."""
    from unibus.testing.app import app

    return app

"""What the contract suite found, as JSON: by harness, its capabilities and the outcome of each case."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest


class Report:
    """A pytest plugin; collects from the reports, which come from xdist's workers, too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._harnesses: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        facts: Any = dict(report.user_properties).get("unibus")
        if not isinstance(facts, dict):
            return
        harness = self._harnesses.setdefault(
            facts["harness"], {**{name: facts[name] for name in ("scheme", "version", "capabilities")}, "cases": {}}
        )
        case = report.location[2].partition(".")[2]  # the id of the node may have the name of a worker's group added
        if report.skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            harness["cases"][case] = {"outcome": "skipped", "reason": reason.removeprefix("Skipped: ")}
        elif report.failed:
            harness["cases"][case] = {"outcome": "failed", "phase": report.when}
        elif report.when == "call":
            harness["cases"][case] = {"outcome": "passed"}

    def pytest_sessionfinish(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._harnesses, indent=2, sort_keys=True) + "\n", encoding="utf-8")

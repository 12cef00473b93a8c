"""Which tests share a worker (`--dist loadscope`), and so the brokers that it has started.

By the scheduler, not by marks: `--dist loadgroup` groups nothing with pytest 9.2 and xdist 3.8, and says nothing of it.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

SPLIT: Final = {"tests/contract/test_kafka.py::TestKafka": 2}
"""Classes whose cases take so long that several workers share them."""


@pytest.hookimpl(optionalhook=True)  # it is not known without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    return Shares(config, log) if config.getvalue("dist") == "loadscope" else None


class Shares(LoadScopeScheduling):  # type: ignore[misc]  # it comes without types
    def _split_scope(self, nodeid: str) -> str:
        return share(nodeid)


def share(nodeid: str) -> str:
    """All tests of an adapter, all of another module, all cases of a class or a part of them."""
    scope = nodeid.partition("[")[0].rpartition("::")[0]
    if scope.startswith("tests/adapters/"):
        return scope.rpartition("/")[0]
    return f"{scope} {zlib.crc32(nodeid.encode()) % SPLIT.get(scope, 1)}"

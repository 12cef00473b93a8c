"""Which tests share a worker (`--dist loadgroup`), and so the brokers that it has started."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

ADAPTERS = Path(__file__).parent / "adapters"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.pluginmanager.hasplugin("xdist"):
        return
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))


def _group(item: pytest.Item) -> str:
    """All tests of an adapter, all of another module, all cases of a class; `workers` of a class says that its cases
    take so long that several workers share them."""
    if item.path.is_relative_to(ADAPTERS):
        return item.path.relative_to(ADAPTERS).parts[0]
    scope = item.nodeid.rpartition("::")[0]
    workers = getattr(getattr(item, "cls", None), "workers", 1)
    return f"{scope} {zlib.crc32(item.nodeid.encode()) % workers}"

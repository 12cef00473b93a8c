"""Adapters are found by scheme; one whose client library is missing says how to get it."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from unibus import Bus, registry
from unibus.driver import SystemClock, Url
from unibus.errors import MissingDependency, UnknownScheme


@pytest.fixture(autouse=True)
def more_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside memory an adapter without its client library, and one that is a third party's."""
    found = {"memory": registry._entry_points()["memory"]}
    pulsar = EntryPoint("pulsar", "unibus_pulsar:connect", registry.GROUP)
    nats = EntryPoint("nats", "unibus.memory:connect", registry.GROUP)
    monkeypatch.setattr(registry, "_entry_points", lambda: {**found, "pulsar": pulsar, "nats": nats})


async def test_a_missing_client_library_gives_the_pip_command() -> None:
    with pytest.raises(MissingDependency, match=r'pip install "unibus\[pulsar\]"') as caught:
        async with Bus("pulsar://127.0.0.1"):
            pass
    assert isinstance(caught.value.__cause__, ImportError)


def test_adapters_are_listed_with_what_keeps_them_from_use() -> None:
    listed = {adapter.scheme: adapter for adapter in registry.adapters()}
    assert set(listed) == {"pulsar", "memory", "nats"}
    assert listed["memory"].error is None
    assert listed["memory"].distribution == "unibus"
    assert "unibus_pulsar" in str(listed["pulsar"].error)


def test_an_unknown_scheme_names_them_all() -> None:
    with pytest.raises(UnknownScheme, match=r"Did you mean pulsar://\? Known schemes: memory, nats, pulsar"):
        registry.connect(Url("pulsr://x"), SystemClock())

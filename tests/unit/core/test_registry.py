"""Adapters are found by scheme; one whose client library is missing says how to get it."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import SimpleNamespace
from typing import ClassVar

import pytest

from unibus import Bus, idempotent, registry
from unibus.driver import Clock, SystemClock, Url
from unibus.errors import ConfigurationError, MissingDependency, UnknownScheme
from unibus.idempotency.memory import MemoryStore
from unibus.testing import app


@pytest.fixture(autouse=True)
def more_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside memory an adapter without its client library, and one that is a third party's."""
    found = {"memory": registry._entry_points(registry.ADAPTERS)["memory"]}
    pulsar = EntryPoint("pulsar", "unibus_pulsar:connect", registry.ADAPTERS)
    nats = EntryPoint("nats", "unibus.memory:connect", registry.ADAPTERS)
    monkeypatch.setattr(registry, "_entry_points", lambda group: {**found, "pulsar": pulsar, "nats": nats})


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


class Stored(MemoryStore):
    """A third party's store, found by the scheme of its URL."""

    made: ClassVar[list[str]] = []

    @classmethod
    def connect(cls, url: Url, clock: Clock) -> Stored:
        cls.made.append(str(url))
        return cls(clock)


async def test_handlers_that_name_one_store_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, found = SimpleNamespace(load=lambda: Stored.connect), registry._entry_points
    monkeypatch.setattr(
        registry, "_entry_points", lambda group: {"stored": entry} if group == registry.STORES else found(group)
    )
    bus = Bus("memory://")
    seen: list[int] = []

    @bus.consumer("one")
    @idempotent(key=lambda message: message.data, store="stored://:secret@host")
    async def one(number: int) -> None:
        seen.append(number)

    @bus.consumer("two")
    @idempotent(key=lambda message: message.data, store="stored://:secret@host")
    async def two(number: int) -> None: ...

    async with app(bus) as t:
        await t.send("one", 7)
        await t.send("one", 7)
        await t.settled()
    assert seen == [7]
    assert Stored.made == ["stored://***@host"]


async def test_an_unknown_store_names_its_handler() -> None:
    bus = Bus("memory://")

    @bus.consumer("one")
    @idempotent(key=lambda message: message.data, store="shelf://host")
    async def one(number: int) -> None: ...

    with pytest.raises(ConfigurationError, match=r"no idempotency store for shelf:// is installed.*") as caught:
        async with bus, bus.consuming():
            pass
    assert "test_registry.py" in str(caught.value)

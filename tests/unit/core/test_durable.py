"""`Bus(durable=True)`: a broker that forgets what it has confirmed is refused, before anything is declared."""

from __future__ import annotations

from pathlib import Path

import pytest

from unibus import Bus
from unibus.driver import Capabilities, Clock, Confirmed, Driver, Url
from unibus.errors import UnsupportedCapability
from unibus.memory import MemoryDriver


class Kept(MemoryDriver):
    """Says of itself what a test wants to hear."""

    confirmed: Confirmed

    @property
    def capabilities(self) -> Capabilities:
        from dataclasses import replace

        return replace(super().capabilities, confirmed=self.confirmed)


def keeping(confirmed: Confirmed) -> type[Kept]:
    return type("Keeping", (Kept,), {"confirmed": confirmed})


async def test_what_is_confirmed_in_memory_alone_is_refused() -> None:
    with pytest.raises(UnsupportedCapability, match="the bus asks for durable messages"):
        async with Bus("memory://", durable=True):
            pass


async def test_without_it_memory_is_as_good_as_any() -> None:
    async with Bus("memory://"):
        pass


@pytest.mark.parametrize("confirmed", ["disk", "replicas"])
async def test_what_outlives_the_process_is_taken(confirmed: Confirmed) -> None:
    def connect(url: Url, clock: Clock) -> Driver:
        return keeping(confirmed)(url, clock)

    async with Bus("memory://", durable=True, connect=connect):
        pass


async def test_the_configuration_may_ask_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unibus.toml").write_text("durable = true\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsupportedCapability, match="durable"):
        async with Bus("memory://"):
            pass

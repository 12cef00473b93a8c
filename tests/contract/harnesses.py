"""The memory broker for the contract suite. Its clock is moved, so that no case waits."""

from __future__ import annotations

from unibus.driver import Driver, Url
from unibus.memory import MemoryDriver
from unibus.testing.clock import MovableClock
from unibus.testing.harness import Harness


class MemoryHarness(Harness):
    """A named broker per case, kept alive by a driver of the harness while buses come and go."""

    options = ""
    patience = 1.0
    silence = 120.0
    longest_wait = 10 * 3600.0

    def __init__(self) -> None:
        super().__init__()
        self.url = f"memory://{self.name('broker').replace('.', '-')}?{self.options}"
        self.clock = MovableClock()

    async def start(self) -> None:
        self._keeper = MemoryDriver(Url(self.url), self.clock or MovableClock())
        await self._keeper.open()

    async def stop(self) -> None:
        await self._keeper.close()

    async def vanish(self, driver: Driver) -> None:
        assert isinstance(driver, MemoryDriver)
        driver.vanish()


class MemoryQueueHarness(MemoryHarness):
    options = "max_body=262144"


class MemoryLogHarness(MemoryHarness):
    options = "model=log"

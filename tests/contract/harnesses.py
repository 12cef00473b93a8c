"""The memory broker for the contract suite. Its clock is moved, so that no case waits."""

from __future__ import annotations

from unibus.bus import Bus
from unibus.driver import Driver, Url
from unibus.memory import MemoryDriver
from unibus.memory.alarm import NEVER
from unibus.memory.log_subscription import LogSubscription
from unibus.memory.queue_subscription import QueueSubscription
from unibus.memory.subscription import MemorySubscription
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
    async def lose(self, bus: Bus) -> None:
        for subscription in _subscriptions(bus):
            assert isinstance(subscription, QueueSubscription)
            subscription.expire(NEVER)


class MemoryLogHarness(MemoryHarness):
    options = "model=log"

    async def lose(self, bus: Bus) -> None:
        for subscription in _subscriptions(bus):
            assert isinstance(subscription, LogSubscription)
            for cursor in list(subscription.cursors):
                subscription._group.hand_over(cursor)


class LossyQueueHarness(MemoryHarness):
    """Settled on receipt, as by a broker that promises nothing."""

    options = "guarantee=at_most_once"


class LossyLogHarness(MemoryHarness):
    options = "model=log&guarantee=at_most_once&start_earliest=off"


class BareQueueHarness(MemoryQueueHarness):
    """Reliable queues and nothing else."""

    options = "delay=off&groups=off&ephemeral=off&patterns=off&ordering=off&nack_delay=off&count=off&lease=0"


class SmallQueueHarness(MemoryQueueHarness):
    """Small batches, short delays and leases, a limit to holding: as SQS and RabbitMQ have them."""

    options = "batch=10&delay_max=900&lease=5&hold=7200&count=off&ephemeral=off&max_body=1024"


class OnePartitionHarness(MemoryLogHarness):
    options = "model=log&partitions=1&delay_max=900&batch=50"


def _subscriptions(bus: Bus) -> list[MemorySubscription]:
    driver = bus.driver
    assert isinstance(driver, MemoryDriver)
    return list(driver._subscriptions)

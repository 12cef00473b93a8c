"""A consumer whose dead letters the tests look after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.contract.harnesses import MemoryHarness
from unibus import Bus, Message, Reject, dead_letter
from unibus.dead_letters import DeadLetter
from unibus.driver import Driver, Outbound, Queue, TopicSubscription, Topology
from unibus.testing.faults import Faults


class Shop:
    """Consumes `orders`. broken: payloads whose handler fails. handled: payloads, and how often with success."""

    def __init__(self, harness: MemoryHarness, faults: Faults | None = None) -> None:
        self.bus: Bus = harness.bus(faults=faults, name="shop")
        self.broken: set[int] | None = None
        self.runs = Counter[int]()
        self.handled = Counter[int]()
        self.messages: list[Message[int]] = []

        @self.bus.consumer("orders")
        @dead_letter()
        async def handle(message: Message[int]) -> None:
            self.runs[message.data] += 1
            if self.broken is None or message.data in self.broken:
                raise Reject(f"order {message.data} is broken")
            self.handled[message.data] += 1
            self.messages.append(message)

        del handle

    def mend(self, *still_broken: int) -> None:
        self.broken = set(still_broken)

    async def has(self, harness: MemoryHarness, dead: int, handled: int) -> None:
        """Once so many are dead letters, and so many were handled in all."""

        async def there() -> bool:
            depth = await self.bus.dead_letters("orders").depth()
            return depth.ready == dead and self.handled.total() == handled

        await harness.until(there, f"{dead} dead letters and {handled} handled, not {self.handled}")


async def put(driver: Driver, source: Queue | TopicSubscription, messages: Sequence[Outbound]) -> None:
    """Declare it, and write to it as any program could."""
    await driver.declare(Topology(create=(source,)))
    for start in range(0, len(messages), driver.capabilities.send.messages):
        await driver.send(source, messages[start : start + driver.capabilities.send.messages])


def letter(number: int, record: DeadLetter | None = None, **attributes: Any) -> Outbound:
    """A dead letter as a consumer of `orders` would have written it, or a stranger's without a record."""
    written = {**attributes, **(record.to_attributes() if record is not None else {})}
    return Outbound(str(number).encode(), {"type": "int", **written}, {"n": str(number)}, None, f"order-{number:06}")


def record(source: str = "orders", **more: Any) -> DeadLetter:
    return DeadLetter(reason="ValueError: no", error_type="ValueError", source=source, **more)

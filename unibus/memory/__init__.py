"""The memory broker: the reference of every semantic, in one process.

`memory://` is private to its driver, `memory://name` is shared by name within the process.
`?model=queue` (the default) settles each delivery by itself, as RabbitMQ, SQS and Redis do;
`?model=log` has partitions, offsets and a low-water mark, as Kafka does.
"""

from __future__ import annotations

from unibus.driver import Clock, Driver, Url
from unibus.memory.driver import MemoryDriver
from unibus.memory.options import Options

__all__ = ["MemoryDriver", "Options", "connect"]


def connect(url: Url, clock: Clock) -> Driver:
    """The adapter's entry point: a driver that opens nothing yet."""
    return MemoryDriver(url, clock)

"""RabbitMQ for unibus: `amqp://user:password@host:port/vhost?option=value`, or `amqps://` with TLS.

Queues are durable quorum queues (classic ones before RabbitMQ 3.13), topics are routing keys of one
topic exchange, a group is a queue that is bound to its patterns. See `Options` for the URL.
"""

from __future__ import annotations

from unibus.driver import Clock, Driver, Url
from unibus_rabbitmq.driver import RabbitDriver
from unibus_rabbitmq.options import Options

__all__ = ["Options", "RabbitDriver", "connect"]


def connect(url: Url, clock: Clock) -> Driver:
    """The adapter's entry point: a driver that opens nothing yet."""
    return RabbitDriver(url, clock)

"""Apache Kafka for unibus: `kafka://host:9092,host:9092?option=value`, with TLS by `tls=on`.

A queue is a topic that one consumer group reads, a topic is a topic, a group is a consumer group with a topic of its
own for what is sent to it alone. See `Options` for the URL.
"""

from __future__ import annotations

from unibus.driver import Clock, Driver, Url
from unibus_kafka.driver import KafkaDriver
from unibus_kafka.options import Options

__all__ = ["KafkaDriver", "Options", "connect"]


def connect(url: Url, clock: Clock) -> Driver:
    """The adapter's entry point: a driver that opens nothing yet."""
    return KafkaDriver(url, clock)

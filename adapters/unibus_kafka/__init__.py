"""Apache Kafka (`kafka://host:9092`)."""

from __future__ import annotations

from unibus.driver import Clock, Driver, Url
from unibus_kafka.driver import KafkaDriver


def connect(url: Url, clock: Clock) -> Driver:
    return KafkaDriver(url, clock)

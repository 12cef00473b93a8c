"""Redis: streams (`redis://`), and topics over its publish/subscribe (`redis+pubsub://`)."""

from __future__ import annotations

from unibus.driver import Clock, Driver, Url
from unibus_redis.channels import PubSubDriver
from unibus_redis.driver import RedisDriver


def connect(url: Url, clock: Clock) -> Driver:
    return RedisDriver(url, clock)


def connect_pubsub(url: Url, clock: Clock) -> Driver:
    return PubSubDriver(url, clock)

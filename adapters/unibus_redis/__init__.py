"""Redis: streams (`redis://`), and topics over its publish/subscribe (`redis+pubsub://`)."""

from __future__ import annotations

from unibus.driver import Clock, Driver, Url
from unibus.idempotency.store import IdempotencyStore
from unibus_redis.channels import PubSubDriver
from unibus_redis.driver import RedisDriver
from unibus_redis.store import RedisStore


def connect(url: Url, clock: Clock) -> Driver:
    """For `redis`, `redis+sentinel`, `redis+cluster`, and the same with `rediss`."""
    return RedisDriver(url, clock)


def connect_pubsub(url: Url, clock: Clock) -> Driver:
    """For `redis+pubsub` and `rediss+pubsub`."""
    return PubSubDriver(url, clock)


def connect_store(url: Url, clock: Clock) -> IdempotencyStore:
    """For the same schemes as `connect`."""
    return RedisStore(url, clock)

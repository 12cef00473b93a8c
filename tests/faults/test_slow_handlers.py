"""Handlers that are slow for their prefetch, against a broker that takes back what is in hand for a minute."""

from __future__ import annotations

import asyncio
import time
import uuid

from tests.brokers import broker
from unibus import Bus, Queue
from unibus.address import Ordering

CONSUMER_TIMEOUT = 60
"""Seconds. The broker looks once a minute whether it is over."""
WATCHED = 150.0
HANDLER = 8.0
PREFETCH = 30


async def handled_in(ordering: Ordering, url: str) -> tuple[list[int], int]:
    """What was handled while we watched, and how many deliveries the broker took away."""
    queue, handled = Queue(f"slow.{uuid.uuid4().hex[:8]}", ordering=ordering), list[int]()
    bus = Bus(f"{url}?consumer_timeout={CONSUMER_TIMEOUT}", grace=1.0)

    @bus.consumer(queue, concurrency=1, prefetch=PREFETCH)
    async def handle(number: int) -> None:
        await asyncio.sleep(HANDLER)
        handled.append(number)

    async with bus.consuming():
        await bus.producer(queue).send_many(range(PREFETCH), key=lambda number: "one")
        until = time.monotonic() + WATCHED
        while time.monotonic() < until:
            await asyncio.sleep(0.5)
        return handled[:], bus.stats()[queue.name].lost


async def test_what_waits_too_long_goes_back_before_the_broker_takes_it() -> None:
    url = broker("rabbitmq").url
    (some, lost), (in_order, lost_in_order) = await asyncio.gather(handled_in("none", url), handled_in("key", url))
    assert (lost, lost_in_order) == (0, 0)
    assert len(some) == len(set(some))
    assert in_order == list(range(len(in_order)))
    assert min(len(some), len(in_order)) > WATCHED / HANDLER / 2

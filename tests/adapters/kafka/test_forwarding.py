"""Forwarders of delayed records: what is moved once is moved by nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from tests.adapters.kafka.conftest import opened, out, until
from tests.adapters.kafka.test_sending import stored
from unibus.driver import Queue, SystemClock, Topology
from unibus_kafka.forwarder import Forwarder
from unibus_kafka.records import Record
from unibus_kafka.subscription import KafkaSubscription


async def test_one_that_is_asked_to_end_settles_first_what_is_on_its_way(
    url: str, servers: str, name: Callable[[str], str]
) -> None:
    queue, stored_already, go = Queue(name("orders"), partitions=1), asyncio.Event(), asyncio.Event()
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        await driver.send(queue, [out(1, delay=0.1)])

        async def move(moves: Sequence[tuple[str, Record]]) -> None:
            await driver._forwarding._move(moves)
            stored_already.set()
            await go.wait()  # the answer takes its time

        endpoint, cluster, clock = driver._endpoint, driver._cluster, SystemClock()
        tiers = KafkaSubscription(
            Queue("delays", physical=queue.name), endpoint, cluster, 100, lambda event: None, clock,
            tiers_of=queue.name,
        )  # fmt: skip
        running = asyncio.ensure_future(Forwarder(queue.name, tiers, move, clock).run())
        await asyncio.wait_for(stored_already.wait(), 30)
        running.cancel()
        await asyncio.sleep(0)
        go.set()
        await asyncio.wait([running])

        async def nothing_waits() -> bool:
            return not await driver._forwarding._waiting(lambda target, existing: target == queue.name, {})

        await until(nothing_waits, "what was moved is settled")
    assert len(await stored(servers, queue.name)) == 1

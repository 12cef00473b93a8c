"""That the watch over a group's commits would see one that goes back."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from aiokafka.structs import TopicPartition

from tests.brokers import broker
from tests.faults.kafka_commits import NOTHING_SEEN, committed
from unibus.driver import Queue, SystemClock, Topology, Url
from unibus_kafka import KafkaDriver


@pytest.mark.parametrize(
    ("notes", "told"), [(("", ""), 1), (("unibus1:1:7@one", "@one"), 1), (("@one", "@another"), 0)]
)  # fmt: skip
async def test_a_group_that_goes_back_is_seen(notes: tuple[str, str], told: int) -> None:
    url, queue = broker("kafka").url, Queue(f"faults.{uuid.uuid4().hex[:6]}")
    driver = KafkaDriver(Url(url), SystemClock())
    await driver.open()
    try:
        await driver.declare(Topology(create=(queue,)))
        async with committed(url, queue.name) as complaints:
            assert complaints == [NOTHING_SEEN]
            for offset, note in zip((5, 3), notes, strict=True):
                place = {TopicPartition(queue.name, 0): (offset, note)}
                await driver._cluster.commit(f"unibus.queue.{queue.name}", place)
            # What is committed later in the same log has been read: so has what came before it.
            end = {TopicPartition(queue.name, 0): (9, "end"), TopicPartition(queue.name, 1): (9, "")}
            await driver._cluster.commit(f"unibus.queue.{queue.name}", end)
            end |= {TopicPartition(queue.name, 1): (8, "")}
            await driver._cluster.commit(f"unibus.queue.{queue.name}", end)
            async with asyncio.timeout(20):
                while not any("partition=1" in complaint for complaint in complaints):
                    await asyncio.sleep(0.05)
            assert len([complaint for complaint in complaints if "partition=0" in complaint]) == told
    finally:
        await driver.close()

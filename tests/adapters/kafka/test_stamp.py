"""Offsets that were committed for a topic that is no more."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aiokafka.structs import TopicPartition

from tests.adapters.kafka.conftest import opened, out, subscribed, take
from unibus.driver import Queue, Topology
from unibus_kafka.metadata import UNKNOWN
from unibus_kafka.stamp import stamped, unstamped

ONE, OTHER = bytes(range(16)), bytes(range(1, 17))


@pytest.mark.parametrize("note", ["", "unibus1:3:500", "what others write"])
def test_a_note_comes_back_for_its_own_topic_alone(note: str) -> None:
    assert unstamped(stamped(note, ONE), ONE) == note
    assert unstamped(stamped(note, ONE), OTHER) is None


@pytest.mark.parametrize(("of", "now"), [(UNKNOWN, ONE), (ONE, UNKNOWN), (UNKNOWN, UNKNOWN)])
def test_where_brokers_tell_no_identity_all_notes_count(of: bytes, now: bytes) -> None:
    assert unstamped(stamped("unibus1:3:500", of), now) == "unibus1:3:500"


@pytest.mark.parametrize(("note", "first"), [("", 3), (stamped("", OTHER), 0)], ids=["of others", "of a deleted topic"])
async def test_reading_begins_where_the_group_is_in_this_topic(
    url: str, name: Callable[[str], str], note: str, first: int
) -> None:
    queue = Queue(name("orders"), partitions=1)
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        for number in range(5):
            await driver.send(queue, [out(number)])
        await driver._cluster.commit(f"unibus.queue.{queue.name}", {TopicPartition(queue.name, 0): (3, note)})
        subscription = await subscribed(driver, queue)
        got = await take(subscription, 5 - first)
        assert [delivery.message_id for delivery in got] == [str(number) for number in range(first, 5)]
        await subscription.close()

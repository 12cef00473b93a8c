"""Where a group begins that several declare for the first time at once: where the first says, and no further on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiokafka.structs import TopicPartition

from tests.adapters.kafka.conftest import opened, out, subscribed, take
from unibus.driver import Outcome, Topic, TopicSubscription, Topology
from unibus_kafka.leadership import Candidate

Name = Callable[[str], str]


async def test_whoever_declares_it_as_well_moves_it_no_further(url: str, name: Name) -> None:
    """Each looks where the group begins as soon as it has declared it, while more is published all the time."""
    topic, published = Topic(name("news")), 0
    async with AsyncExitStack() as stack:
        drivers = [await stack.enter_async_context(opened(url)) for _ in range(6)]
        await drivers[0].send(topic, [out("before", topic=topic.name)])

        async def publish() -> None:
            nonlocal published
            while True:
                await drivers[0].send(topic, [out(published, topic=topic.name)])
                published += 1

        publishing = asyncio.ensure_future(publish())
        for turn in range(8):
            group = TopicSubscription((topic.name,), name(f"group{turn}"))

            async def begins(driver: int, group: TopicSubscription = group) -> dict[TopicPartition, tuple[int, str]]:
                await drivers[driver].declare(Topology(create=(group,)))
                return await drivers[driver]._cluster.committed(group.name)

            seen = await asyncio.gather(*[begins(driver) for driver in range(6)])
            assert len(seen[0]) == 4, "the topic's two partitions, and those of its own"
            assert all(one == seen[0] for one in seen), f"turn {turn}: it was moved: {seen}"
        publishing.cancel()
        await asyncio.wait([publishing])
        assert published > 8, "else nothing could have been passed over"


async def test_one_declares_it_while_another_consumes_already(url: str, name: Name) -> None:
    """As slow as it can be: it saw nothing committed, and joins a group that is at work."""
    topic = Topic(name("news"))
    group = TopicSubscription((topic.name,), name("group"))
    async with opened(url) as quick, opened(url) as slow:
        subscription = await subscribed(quick, group)
        await quick.send(topic, [out(n, topic=topic.name) for n in range(10)])
        await subscription.settle(await take(subscription, 10), Outcome.ACK)
        receiving = asyncio.ensure_future(take(subscription, 1))
        async with slow._cluster.beside() as cluster:
            candidate = Candidate(cluster, group.name)
            assert not await candidate.leads()
            await candidate.leave()
        await quick.send(topic, [out("after", topic=topic.name)])
        assert [delivery.message_id for delivery in await receiving] == ["after"]
        await subscription.close()


async def test_what_waits_for_a_group_is_counted_in_all_that_it_reads(url: str, name: Name) -> None:
    group, topics = TopicSubscription((name("news.#"),), name("group")), [Topic(name(f"news.n{n}")) for n in range(3)]
    async with opened(url) as driver:
        await driver.send(topics[0], [out("before", topic=topics[0].name)])
        await driver.declare(Topology(create=(group,)))
        for topic in topics:
            await driver.send(topic, [out(n, topic=topic.name) for n in range(5)])
        await driver.send(group, [out("again")])
        assert (await driver.depth(group)).ready == 16
        subscription = await subscribed(driver, group)
        got = await take(subscription, 16)
        assert (await driver.depth(group)).ready == 0
        await subscription.settle(got, Outcome.ACK)
        await subscription.close()
        assert (await driver.depth(group)).ready == 0


async def test_who_does_not_lead_any_more_commits_nothing(url: str, name: Name) -> None:
    group = name("group")
    async with opened(url) as first, opened(url) as second:
        await first.declare(Topology(create=(TopicSubscription((name("news"),), name("other")),)))
        place = TopicPartition(name("news"), 0)
        async with first._cluster.beside() as one, second._cluster.beside() as other:
            stale, fresh = Candidate(one, group), Candidate(other, group)
            assert await stale.leads()
            joining = asyncio.ensure_future(fresh.leads())
            await first._cluster.put_out(group, stale._member)  # it was silent for too long
            assert await joining or await fresh.leads()
            assert await fresh.commit({place: 7})
            assert not await stale.commit({place: 9})
            assert await first._cluster.committed(group) == {place: (7, "")}
            await fresh.leave()

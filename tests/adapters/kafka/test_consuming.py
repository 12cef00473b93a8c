"""Consuming: what is committed, when partitions change hands, and a consumer that falls silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

from tests.adapters.kafka.conftest import Events, opened, out, subscribed, take, until
from tests.brokers import Broker
from unibus import Bus
from unibus.driver import (
    Disconnected,
    Lost,
    Outcome,
    Queue,
    Reconnected,
    Recreated,
    Revoking,
    Topic,
    TopicSubscription,
    Topology,
)
from unibus.errors import BatchError, SettlementLost
from unibus_kafka import KafkaDriver, commits
from unibus_kafka import subscription as subscriptions
from unibus_kafka.consumer import Member


async def committed(driver: KafkaDriver, group: str) -> dict[int, int]:
    return {tp.partition: offset for tp, (offset, _) in (await driver._cluster.committed(group)).items()}


async def test_done_in_any_order_only_what_is_done_is_committed(url: str, name: Callable[[str], str]) -> None:
    queue = Queue(name("orders"), partitions=1)
    async with opened(url) as driver:
        subscription = await subscribed(driver, queue)
        await driver.send(queue, [out(n) for n in range(10)])
        got = await take(subscription, 10)

        async def stands_at(offset: int) -> bool:
            return (await committed(driver, f"unibus.queue.{queue.name}")).get(0) == offset

        await subscription.settle([got[n] for n in (1, 2, 5, 9)], Outcome.ACK)
        await subscription.settle([got[0]], Outcome.ACK)
        await until(lambda: stands_at(3), "0 to 2 are committed")
        await subscription.settle(got[3:5], Outcome.REJECT)
        await until(lambda: stands_at(6), "and then 5")
        await subscription.close()
        assert await stands_at(6)


async def test_reading_is_never_too_far_ahead_of_what_is_done(
    url: str, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "widest_gap", lambda prefetch: 50)
    queue = Queue(name("orders"), partitions=1)
    async with opened(url) as driver:
        subscription = await subscribed(driver, queue, prefetch=20)
        await driver.send(queue, [out(n) for n in range(200)])
        (first,) = await take(subscription, 1)
        taken = 1
        while batch := await subscription.receive(20, 1.0):
            taken += len(batch)
            await subscription.settle(batch, Outcome.ACK)
        assert 50 <= taken <= 70, "so much would be read again after a crash"
        await subscription.settle([first], Outcome.ACK)
        rest = await take(subscription, 20)
        await subscription.settle(rest, Outcome.ACK)
        await subscription.close()


async def test_each_partition_has_its_turn(url: str, name: Callable[[str], str]) -> None:
    """However much waits in another, as in what a dead member has left."""
    queue = Queue(name("orders"), partitions=2)
    async with opened(url) as driver:
        await driver.declare(Topology(create=(queue,)))
        for number in range(200):
            await driver.send(queue, [out(number)])  # one call goes to one partition, the next to the next
        subscription = await subscribed(driver, queue, prefetch=5)
        partitions = set()
        for _ in range(10):
            batch = await take(subscription, 5)
            partitions |= {delivery.token.partition.tp for delivery in batch}
            await subscription.settle(batch, Outcome.ACK)
        assert len(partitions) == 2
        await subscription.close()


@pytest.mark.parametrize("why", ["nothing is wanted", "nothing may be read"])
async def test_a_handler_of_many_poll_intervals_costs_no_rebalance(
    url: str, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    old = AIOKafkaConsumer.__init__

    def impatient(self: Any, **options: Any) -> None:
        old(self, **options, max_poll_interval_ms=1500)

    monkeypatch.setattr(AIOKafkaConsumer, "__init__", impatient)
    if why == "nothing may be read":
        monkeypatch.setattr(subscriptions, "widest_gap", lambda prefetch: 1)
    queue, events = Queue(name("orders"), partitions=1), Events()
    async with opened(url) as driver:
        subscription = await subscribed(driver, queue, events, prefetch=1 if why == "nothing is wanted" else 10)
        generation = subscription.member.generation
        await driver.send(queue, [out(1)])
        held = await take(subscription, 1)
        await driver.send(queue, [out(2)])
        # As long as the handler takes: three poll intervals, and in one case three sessions.
        assert not await subscription.receive(1, 9.5 if why == "nothing is wanted" else 4.5)
        await subscription.settle(held, Outcome.ACK)
        await subscription.settle(await take(subscription, 1), Outcome.ACK)
        assert subscription.member.generation == generation
        assert not events.of(Lost)
        await subscription.close()


async def test_what_runs_may_finish_when_partitions_change_hands(url: str, name: Callable[[str], str]) -> None:
    queue, events = Queue(name("orders"), partitions=2), Events()
    async with opened(url) as driver, opened(url) as other:
        subscription = await subscribed(driver, queue, events)
        await driver.send(queue, [out(n, str(n)) for n in range(20)])
        held = await take(subscription, 20)
        joining = asyncio.ensure_future(subscribed(other, queue))
        await until(lambda: bool(events.of(Revoking)), "it is told that they may be taken")
        (revoking,) = events.of(Revoking)
        assert set(revoking.deliveries) == set(held)
        await subscription.settle(held, Outcome.ACK)
        second = await joining
        assert not await second.receive(10, 1.0), "all was committed before"
        assert not events.of(Lost)
        await subscription.close()
        await second.close()


async def test_what_does_not_finish_in_time_is_lost_where_it_went_and_stays_where_it_did_not(
    url: str, name: Callable[[str], str]
) -> None:
    queue, events = Queue(name("orders"), partitions=2), Events()
    async with opened(url.replace("revoke=3", "revoke=0.5")) as driver, opened(url) as other:
        subscription = await subscribed(driver, queue, events)
        await driver.send(queue, [out(n, str(n)) for n in range(20)])
        held = await take(subscription, 20)
        second = await subscribed(other, queue)
        await until(lambda: bool(events.of(Lost)), "some are lost")
        lost = {delivery for event in events.of(Lost) for delivery in event.deliveries}
        assert lost < set(held)
        (kept_partition,) = subscription.partitions
        assert {d.token.partition.tp for d in set(held) - lost} == {kept_partition}
        with pytest.raises(SettlementLost) as stale:
            await subscription.settle(held, Outcome.ACK)
        assert stale.value.count == len(lost)
        again = await take(second, len(lost))
        assert {delivery.message_id for delivery in again} == {delivery.message_id for delivery in lost}
        await second.settle(again, Outcome.ACK)
        await subscription.close()
        await second.close()


async def test_a_late_settlement_of_an_earlier_time_never_rewinds_the_group(
    url: str, name: Callable[[str], str]
) -> None:
    queue, events = Queue(name("orders"), partitions=1), Events()
    async with opened(url) as driver, opened(url) as other:
        subscription = await subscribed(driver, queue, events)
        await driver.send(queue, [out(n) for n in range(10)])
        held = await take(subscription, 10)
        await subscription.settle(held[:3], Outcome.ACK)

        async def stands_at_3() -> bool:
            return (await committed(other, f"unibus.queue.{queue.name}")).get(0) == 3

        await until(stands_at_3, "three are committed")
        await driver.put_out()
        await until(lambda: bool(events.of(Lost)), "it is out of the group")
        with pytest.raises(SettlementLost):
            await subscription.settle(held[3:], Outcome.ACK)
        again = await take(subscription, 7)
        await subscription.settle(again, Outcome.ACK)
        await subscription.close()
        assert (await committed(other, f"unibus.queue.{queue.name}"))[0] == 10


async def test_a_named_instance_comes_back_without_a_rebalance(url: str, name: Callable[[str], str]) -> None:
    queue, events = Queue(name("orders"), partitions=2), Events()
    async with opened(f"{url}&instance={name('a')}") as staying:
        first = await subscribed(staying, queue, events)
        async with opened(f"{url}&instance={name('b')}") as leaving:
            second = await subscribed(leaving, queue)
            await until(lambda: len(first.partitions) == len(second.partitions) == 1, "they share")
            await second.close()
        generation, mine = first.member.generation, set(first.partitions)
        async with opened(f"{url}&instance={name('b')}") as back:
            third = await subscribed(back, queue)
            assert not mine & set(third.partitions)
            assert first.member.generation == generation
            await third.close()
        await first.close()


async def test_a_consumer_that_hangs_is_replaced(
    url: str, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, events = Queue(name("orders"), partitions=1), Events()
    async with opened(url.replace("session=5", "session=2")) as driver:
        subscription = await subscribed(driver, queue, events)
        deaf, old = subscription.member, Member.poll

        async def poll(self: Member, partitions: Any, seconds: float, most: int) -> Any:
            if self is deaf:
                await asyncio.sleep(seconds)
                return {}
            return await old(self, partitions, seconds, most)

        monkeypatch.setattr(Member, "poll", poll)
        await driver.send(queue, [out(1)])
        (delivery,) = await take(subscription, 1)
        assert [type(event) for event in events] == [Disconnected, Reconnected]
        await subscription.settle([delivery], Outcome.ACK)
        await subscription.close()


async def test_a_commit_that_was_cut_off_is_not_the_last(
    url: str, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = Queue(name("orders"), partitions=1)
    async with opened(f"{url}&timeout=3") as driver:
        subscription = await subscribed(driver, queue)
        await driver.send(queue, [out(n) for n in range(3)])
        held = await take(subscription, 3)
        unheard, begun = subscription.member._consumer._coordinator, asyncio.Event()

        async def commit(assignment: Any, offsets: Any) -> None:
            begun.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(unheard, "_do_commit_offsets", commit)
        await subscription.settle(held, Outcome.ACK)
        await begun.wait()
        await subscription.rebuild()
        await subscription.settle(await take(subscription, 3), Outcome.ACK)

        async def all_are_committed() -> bool:
            return (await committed(driver, f"unibus.queue.{queue.name}")).get(0) == 3

        await until(all_are_committed, "by the consumer that took its place")
        await subscription.close()


async def test_nothing_more_is_handed_out_while_the_group_hears_nothing(
    url: str, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library has read ahead, and others may have all of that by now."""
    monkeypatch.setattr(commits, "LATE", 0.0)
    queue = Queue(name("orders"), partitions=1)
    async with opened(url) as driver:
        subscription = await subscribed(driver, queue, prefetch=10)
        await driver.send(queue, [out(n) for n in range(100)])
        held, heard = await take(subscription, 10), asyncio.Event()
        coordinator = subscription.member._consumer._coordinator
        old = coordinator._do_commit_offsets

        async def commit(assignment: Any, offsets: Any) -> None:
            await heard.wait()
            await old(assignment, offsets)

        monkeypatch.setattr(coordinator, "_do_commit_offsets", commit)
        await subscription.settle(held, Outcome.ACK)
        taken = 10
        while batch := await subscription.receive(10, 1.0):
            taken += len(batch)
            await subscription.settle(batch, Outcome.ACK)
        assert taken <= 20
        heard.set()
        await subscription.settle(await take(subscription, 10), Outcome.ACK)
        await subscription.close()


async def test_a_topic_that_is_deleted_under_its_consumers_is_made_anew(url: str, name: Callable[[str], str]) -> None:
    """One of them makes it, and the other has to know that it is not the one that it has read."""
    queue, events = Queue(name("orders"), partitions=2), [Events(), Events()]
    async with opened(url) as driver, opened(url) as other:
        subscriptions = [
            await subscribed(one, queue, each) for one, each in zip((driver, other), events, strict=True)
        ]  # fmt: skip
        await until(lambda: all(len(one.partitions) == 1 for one in subscriptions), "they share")
        for number in range(10):
            await driver.send(queue, [out(number)])
        for subscription in subscriptions:
            await subscription.settle(await take(subscription, 5), Outcome.ACK)
        admin = AIOKafkaAdminClient(bootstrap_servers=driver._endpoint.servers)
        await admin.start()
        await admin.delete_topics([queue.name])
        await admin.close()
        await until(lambda: all(each.of(Reconnected) for each in events), "it is back")
        for each in events:
            told = [type(event) for event in each if not isinstance(event, Revoking)]
            assert told == [Disconnected, Recreated, Reconnected]

        async def sent(number: int) -> bool:
            with suppress(BatchError):
                await driver.send(queue, [out(f"new {number}")])
                return True
            return False

        for number in range(20):
            await until(lambda: sent(number), "it can be sent to")  # noqa: B023
        got = set[str]()
        async with asyncio.timeout(20):
            while len(got) < 20:
                for subscription in subscriptions:
                    batch = await subscription.receive(20, 0.2)
                    got |= {delivery.message_id for delivery in batch}
                    await subscription.settle(batch, Outcome.ACK)
        assert got == {f"new {number}" for number in range(20)}
        for subscription in subscriptions:
            await subscription.close()


async def test_a_new_topic_of_a_pattern_is_read_from_its_first_message(url: str, name: Callable[[str], str]) -> None:
    group = TopicSubscription((name("user.*"),), name("mail"))
    async with opened(url) as driver:
        subscription = await subscribed(driver, group)
        topic = name("user.created")
        await driver.send(Topic(topic), [out(n, topic=topic) for n in range(5)])
        got = await take(subscription, 5)
        assert {delivery.message_id for delivery in got} == set("01234")
        assert {delivery.address for delivery in got} == {topic}
        await subscription.close()


async def test_bytes_that_no_handler_can_read_end_as_they_are_among_the_dead_letters(
    url: str, servers: str, name: Callable[[str], str]
) -> None:
    bus, orders, handled = Bus(url), name("orders"), list[int]()

    @bus.consumer(orders)
    async def handle(number: int) -> None:
        handled.append(number)

    async with bus, bus.consuming():
        producer = AIOKafkaProducer(bootstrap_servers=servers)
        await producer.start()
        for value in (b"1", b"\xff\x00 no json", b"2"):
            await producer.send_and_wait(orders, value)
        await producer.stop()
        await until(lambda: sorted(handled) == [1, 2], "the others are handled")
        async with bus.pull(queue=f"{orders}.dlq", type=bytes) as letters:
            letter = await letters.next(10)
            assert letter is not None
            assert letter.message.data == b"\xff\x00 no json"
            await letter.ack()


async def test_on_an_ordered_queue_the_message_that_kills_is_found_and_the_order_kept(
    url: str, server: Broker, name: Callable[[str], str]
) -> None:
    queue, handled, kills = Queue(name("ordered"), ordering="key", partitions=1), list[int](), list[int]()

    async with opened(url) as sender:
        await sender.declare(Topology(create=(queue, queue.dead_letters)))
        await sender.send(queue, [out(n, "k") for n in range(20)])
        for _ in range(20):
            async with opened(url) as driver:
                subscription = await driver.subscribe(queue, prefetch=10, notify=Events())
                single = True
                while len(handled) < 20 and (batch := await subscription.receive(1 if single else 10, 8.0)):
                    suspects = [one for one in batch if (one.deliveries or 0) >= 3]
                    single = bool(suspects)
                    killer = next((one for one in batch if one.body == b"7"), None)
                    if killer is None or (killer.deliveries or 0) >= 6:
                        handled += [int(one.message_id) for one in batch if int(one.message_id) not in handled]
                        await subscription.settle(batch, Outcome.ACK)
                        continue
                    assert all((one.deliveries or 0) < 6 for one in batch), "another would be convicted"
                    kills.append(killer.deliveries or 0)
                    await driver.vanish()
                    break
                else:
                    await subscription.close()
                    break
    assert handled == list(range(20)), f"{handled} after {kills}"
    assert len(kills) <= 15, "five alone, and those in which others stood before it"

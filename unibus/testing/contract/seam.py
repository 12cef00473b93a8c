"""The driver protocol itself, without the core: what the core relies on."""

from __future__ import annotations

import asyncio

import pytest

from unibus.driver import (
    Depth,
    LeaseExtender,
    Lost,
    Outbound,
    Outcome,
    Queue,
    Topic,
    TopicSubscription,
    Topology,
)  # fmt: skip
from unibus.errors import BatchError, DestinationNotFound, NotOpen, SettlementLost
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.driving import Events, ids, out, outs, put, settle, subscribed, take
from unibus.testing.contract.ledger import difference
from unibus.testing.contract.needs import (
    DELIVERY_COUNT,
    EPHEMERAL,
    GROUPS,
    LEASE,
    NACK_DELAY,
    ORDERED_QUEUES,
    PATTERNS,
    RELIABLE_QUEUES,
    needs,
)
from unibus.testing.harness import Harness


class Seam(Cases):
    async def test_a_driver_that_is_closed_says_so(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue)
            await subscription.close()
            await subscription.close()
            with pytest.raises(NotOpen):
                await subscription.receive(1, 0.1)
        await driver.close()
        with pytest.raises(NotOpen):
            await driver.send(queue, outs(1))
        with pytest.raises(NotOpen):
            await driver.declare(Topology(create=(queue,)))
        with pytest.raises(NotOpen):
            await driver.subscribe(queue, prefetch=1, notify=Events())

    async def test_what_is_not_there_is_not_found(self, harness: Harness) -> None:
        queue = Queue(harness.name("nowhere"))
        async with harness.driver() as driver:
            with pytest.raises(BatchError) as failed:
                await driver.send(queue, outs(1, 2))
            assert failed.value.errors.keys() == {0, 1}
            assert all(isinstance(error, DestinationNotFound) for error in failed.value.errors.values())
            with pytest.raises(DestinationNotFound):
                await driver.declare(Topology(verify=(queue,)))
            with pytest.raises(DestinationNotFound):
                await driver.subscribe(queue, prefetch=1, notify=Events())
            with pytest.raises(DestinationNotFound):
                await driver.depth(queue)

    async def test_declaring_twice_is_fine(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            for _ in range(3):
                await driver.declare(Topology(create=(queue, queue.dead_letters)))
            await driver.declare(Topology(verify=(queue, queue.dead_letters)))

    @needs(RELIABLE_QUEUES)
    async def test_a_delivery_is_settled_once_however_often_it_is_said(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue)
            await driver.send(queue, outs(*range(10)))
            got = await take(harness, subscription, 10)
            await subscription.settle(list(reversed(got[:6])), Outcome.ACK)
            await subscription.settle(got[:6], Outcome.ACK)
            await asyncio.gather(*[subscription.settle([delivery], Outcome.ACK) for delivery in got[4:]])
            await subscription.settle(got, Outcome.NACK)
            assert not await harness.passing(subscription.receive(10, harness.silence)), "settled and delivered again"
            await subscription.close()

    @needs(RELIABLE_QUEUES)
    async def test_what_is_given_back_comes_again(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue)
            await driver.send(queue, outs(*range(10)))
            first = await take(harness, subscription, 10)
            await subscription.settle(first[:5], Outcome.NACK)
            again = await take(harness, subscription, 5)
            assert not difference(ids(again), ids(first[:5]))
            assert all(delivery.redelivered for delivery in again)
            assert all(delivery.body == delivery.message_id.encode() for delivery in again)
            await subscription.settle([*first[5:], *again], Outcome.ACK)
            assert not await harness.passing(subscription.receive(10, harness.silence))
            await subscription.close()

    @needs(RELIABLE_QUEUES)
    async def test_what_is_rejected_does_not_come_again(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue)
            await driver.send(queue, outs(1, 2))
            await subscription.settle(await take(harness, subscription, 2), Outcome.REJECT)
            assert not await harness.passing(subscription.receive(10, harness.silence))
            await subscription.close()

    @needs(RELIABLE_QUEUES)
    async def test_a_hole_is_not_passed_over(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue)
            await put(driver, queue, outs(*range(20)))
            got = await take(harness, subscription, 20)
            unsettled = [delivery for delivery in got if delivery.message_id in ("3", "11")]
            await settle(driver, subscription, [one for one in got if one not in unsettled], Outcome.ACK)
            await subscription.close()
            again = await subscribed(driver, queue)
            names = set[str]()
            while not names >= {"3", "11"}:  # on a log with what came after them, in no order of the two
                names.update(ids(await take(harness, again, 1)))
            await again.close()
        assert names <= set(map(str, range(3, 20)))

    @needs(RELIABLE_QUEUES)
    async def test_a_killed_driver_gives_back_what_it_held_and_settles_no_more(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver, harness.driver() as other:
            subscription = await subscribed(driver, queue)
            await driver.send(queue, outs(*range(5)))
            held = await take(harness, subscription, 5)
            await harness.vanish(driver)
            second = await subscribed(other, queue)
            again = await take(harness, second, 5)
            assert not difference(ids(again), ids(held))
            await second.settle(again, Outcome.ACK)
            assert not await harness.passing(second.receive(5, harness.silence))
            await second.close()

    @needs(RELIABLE_QUEUES)
    async def test_no_more_than_the_prefetch_is_handed_out(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue, prefetch=4)
            await driver.send(queue, outs(*range(10)))
            held = await take(harness, subscription, 4)
            assert not await harness.passing(subscription.receive(10, 0.2))
            await subscription.settle(held[:1], Outcome.ACK)
            held = [*held[1:], *await take(harness, subscription, 1)]
            assert not await harness.passing(subscription.receive(10, 0.2))
            await subscription.settle(held, Outcome.ACK)
            await subscription.settle(await take(harness, subscription, 4), Outcome.ACK)
            await subscription.close()

    async def test_a_receive_does_not_wait_to_fill_a_batch(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue)
            await driver.send(queue, outs(1))
            started = harness.now()
            batch = await harness.passing(subscription.receive(100, 60.0))
            assert ids(list(batch)) == ["1"]
            assert harness.now() - started < harness.patience
            await subscription.settle(batch, Outcome.ACK)
            assert not await harness.passing(subscription.receive(100, 0.2))
            await subscription.close()

    async def test_messages_of_one_call_keep_all_that_they_carry(self, harness: Harness) -> None:
        queue, count = Queue(harness.name("orders")), min(harness.capabilities.send.messages, 200)
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue, prefetch=1000)
            sent = [
                Outbound(b"b%d" % n, {"type": f"t{n}", "correlationid": f"c{n}"}, {"h": f"h{n}"}, f"k{n}", f"m{n}")
                for n in range(count)
            ]
            await driver.send(queue, sent)
            got = {delivery.message_id: delivery for delivery in await take(harness, subscription, count)}
            for message in sent:
                delivery = got[message.message_id]
                assert (delivery.body, dict(delivery.headers), delivery.key) == (
                    message.body,
                    message.headers,
                    message.key,
                )
                assert {**delivery.attributes, **message.attributes} == dict(delivery.attributes)
                assert delivery.address == queue.name
            await settle(driver, subscription, list(got.values()), Outcome.ACK)
            await subscription.close()

    @needs(ORDERED_QUEUES)
    async def test_a_call_is_stored_in_its_order(self, harness: Harness) -> None:
        queue = Queue(harness.name("ordered"), ordering="key")
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue, prefetch=1)
            count = min(harness.capabilities.send.messages, 50)
            await driver.send(queue, [out(n, key="k") for n in range(count)])
            got = []
            for _ in range(count):
                (delivery,) = await take(harness, subscription, 1)
                got.append(delivery.message_id)
                await subscription.settle([delivery], Outcome.ACK)
            await subscription.close()
        assert got == [str(n) for n in range(count)]

    @needs(RELIABLE_QUEUES, NACK_DELAY)
    async def test_given_back_with_a_delay_it_is_not_early(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue)
            await driver.send(queue, outs(1))
            held = await take(harness, subscription, 1)
            started = harness.now()
            await subscription.settle(held, Outcome.NACK, delay=1.5)
            again = await harness.passing(subscription.receive(1, 10.0))
            assert ids(list(again)) == ["1"]
            assert harness.now() - started >= 1.499
            await subscription.settle(again, Outcome.ACK)
            await subscription.close()

    @needs(RELIABLE_QUEUES, DELIVERY_COUNT)
    async def test_deliveries_are_counted(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue)
            await driver.send(queue, outs(1))
            for count in (1, 2, 3):
                (delivery,) = await take(harness, subscription, 1)
                assert delivery.deliveries == count
                assert delivery.redelivered is (count > 1)
                await subscription.settle([delivery], Outcome.NACK)
            await subscription.close()
            subscription = await subscribed(driver, queue)
            (delivery,) = await take(harness, subscription, 1)
            assert (delivery.deliveries or 0) >= 4, "an end of the subscription counts, too"
            await subscription.settle([delivery], Outcome.ACK)
            await subscription.close()

    @needs(LEASE)
    async def test_a_lease_that_ends_is_told_and_what_was_held_is_stale(self, harness: Harness) -> None:
        lease = harness.capabilities.lease
        assert lease is not None
        if 3 * lease > harness.longest_wait:
            pytest.skip(f"needs a lease below {harness.longest_wait / 3:g} s")
        queue, events = Queue(harness.name("orders")), Events()
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue, events=events)
            assert isinstance(subscription, LeaseExtender)
            await driver.send(queue, outs(1, 2))
            one, two = await take(harness, subscription, 2)
            await harness.wait(lease * 0.7)
            await subscription.extend([one], lease)
            await harness.wait(lease * 0.7)
            await harness.until(lambda: bool(events), "the loss is told", within=lease)
            lost = [delivery for event in events if isinstance(event, Lost) for delivery in event.deliveries]
            assert lost == [two]
            with pytest.raises(SettlementLost):
                await subscription.settle([two], Outcome.ACK)
            (again,) = await take(harness, subscription, 1)
            assert again.message_id == two.message_id
            await subscription.settle([one, again], Outcome.ACK)
            await subscription.close()

    @needs(RELIABLE_QUEUES)
    async def test_depth_tells_what_is_ready(self, harness: Harness) -> None:
        queue = Queue(harness.name("orders"))
        async with harness.driver() as driver:
            subscription = await subscribed(driver, queue)
            assert (await driver.depth(queue)).ready == 0
            await driver.send(queue, outs(*range(5)))
            held = await take(harness, subscription, 2)

            def fits(depth: Depth) -> bool:
                # A client may have buffered what it has not handed out: that is in flight, not ready.
                return depth.ready <= 3 and (depth.in_flight is None or depth.ready + depth.in_flight == 5)

            async def told() -> bool:
                return fits(await driver.depth(queue))

            await harness.until(told, "the depth is told", within=harness.longest_wait)
            await subscription.settle(held, Outcome.ACK)
            await subscription.close()

            async def three() -> bool:
                return (await driver.depth(queue)).ready == 3

            await harness.until(three, "three are left", within=60)

    @needs(GROUPS, PATTERNS)
    async def test_what_is_sent_to_a_group_reaches_it_alone_and_keeps_its_topic(self, harness: Harness) -> None:
        one = TopicSubscription((harness.name("a.*"),), harness.name("one"))
        two = TopicSubscription((harness.name("a.*"),), harness.name("two"))
        topic = harness.name("a.b")
        async with harness.driver() as driver:
            first, second = await subscribed(driver, one), await subscribed(driver, two)
            await driver.send(one, [out("alone", topic=topic), out("elsewhere", topic=harness.name("z"))])
            await driver.send(Topic(topic), [out("both", topic=topic)])
            got = {delivery.message_id: delivery for delivery in await take(harness, first, 3)}
            assert got.keys() == {"alone", "elsewhere", "both"}
            assert {name: delivery.address for name, delivery in got.items()} == {
                "alone": topic,
                "elsewhere": harness.name("z"),
                "both": topic,
            }
            await first.settle(list(got.values()), Outcome.ACK)
            others = await take(harness, second, 1)
            assert ids(others) == ["both"]
            await second.settle(others, Outcome.ACK)
            assert not await harness.passing(second.receive(5, harness.silence))
            await first.close()
            await second.close()

    @needs(GROUPS)
    async def test_a_call_may_mix_topics(self, harness: Harness) -> None:
        groups = [TopicSubscription((harness.name(f"t{n}"),), harness.name(f"g{n}")) for n in range(3)]
        async with harness.driver() as driver:
            subscriptions = [await subscribed(driver, group) for group in groups]
            await driver.send(Topic(harness.name("t0")), [out(n, topic=harness.name(f"t{n % 3}")) for n in range(9)])
            for number, subscription in enumerate(subscriptions):
                got = await take(harness, subscription, 3)
                assert not difference(ids(got), [str(n) for n in range(9) if n % 3 == number])
                assert {delivery.address for delivery in got} == {harness.name(f"t{number}")}
                await subscription.settle(got, Outcome.ACK)
                await subscription.close()

    @needs(EPHEMERAL)
    async def test_once_subscribed_what_is_published_is_heard(self, harness: Harness) -> None:
        topic = harness.name("ticker")
        async with harness.driver() as driver, harness.driver() as other:
            for turn in range(5):
                subscription = await subscribed(driver, TopicSubscription((topic,)))
                await other.send(Topic(topic), [out(turn, topic=topic)])
                got = await take(harness, subscription, 1)
                assert ids(got) == [str(turn)]
                await subscription.settle(got, Outcome.ACK)
                await subscription.close()

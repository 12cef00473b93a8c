"""What happens seldom, and must be right: suspects, exhausted dead letters, retries at shutdown, lost settlements."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from unibus import Bus, Message, Queue, Reject, constant, dead_letter, registry, retry
from unibus import attributes as names
from unibus.driver import (
    Address,
    Clock,
    Delivery,
    Depth,
    Driver,
    DriverEvent,
    Lost,
    Outbound,
    Outcome,
    Source,
    Subscription,
    TopicSubscription,
    Topology,
    Url,
)
from unibus.errors import ConnectionLost, DriverError, NotSent, SettlementLost
from unibus.memory import MemoryDriver
from unibus.memory.alarm import NEVER
from unibus.memory.queue_subscription import QueueSubscription
from unibus.testing import App, MovableClock, app
from unibus.testing.faults import Faults, Hold


class Order(BaseModel):
    id: int


class Recount:
    """A memory driver whose deliveries get the counts that a test gives their messages, and whose settles are noted."""

    def __init__(self, driver: Driver, counts: dict[str, int]) -> None:
        self._driver = driver
        self._counts = counts
        self.settled: list[tuple[str, Outcome]] = []
        self.most_held = 0
        self.fail_sends = 0
        self.count_once_sent: dict[str, int] = {}
        self.fail_settles: list[DriverError | BaseException] = []
        self.notify: Callable[[DriverEvent], None] = lambda event: None
        self.subscription: Any = None

    @property
    def capabilities(self) -> Any:
        return self._driver.capabilities

    async def open(self) -> None:
        await self._driver.open()

    async def declare(self, topology: Any) -> None:
        await self._driver.declare(topology)

    async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
        if self.fail_sends:
            self.fail_sends -= 1
            raise ConnectionLost("cut")
        for message in messages:
            self._counts.pop(message.message_id, None)  # stored anew, it is counted anew
            if message.message_id in self.count_once_sent:
                self._counts[message.message_id] = self.count_once_sent.pop(message.message_id)
        await self._driver.send(address, messages)

    async def subscribe(self, source: Source, *, prefetch: int, notify: Callable[[DriverEvent], None]) -> Subscription:
        self.notify = notify
        subscription: Any = await self._driver.subscribe(source, prefetch=prefetch, notify=notify)
        receive, settle = subscription.receive, subscription.settle

        async def recounted(max_messages: int, max_wait: float) -> Sequence[Delivery]:
            batch: Sequence[Delivery] = await receive(max_messages, max_wait)
            for delivery in batch:
                delivery.deliveries = self._counts.get(delivery.message_id, delivery.deliveries)
            return batch

        async def noted(deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
            if self.fail_settles:
                raise self.fail_settles.pop(0)
            self.settled += [(delivery.message_id, outcome) for delivery in deliveries]
            await settle(deliveries, outcome, delay=delay)

        subscription.receive, subscription.settle = recounted, noted
        self.subscription = subscription
        return subscription  # type: ignore[no-any-return]

    async def depth(self, source: Source) -> Any:
        return await self._driver.depth(source)

    async def close(self) -> None:
        await self._driver.close()


def recounting(counts: dict[str, int], made: list[Recount]) -> Callable[[Url, Clock], Driver]:
    def connect(url: Url, clock: Clock) -> Driver:
        driver = Recount(registry.connect(url, clock), counts)
        made.append(driver)
        return driver

    return connect


async def opened(bus: Bus, counts: dict[str, int]) -> tuple[MovableClock, Recount]:
    clock, made = MovableClock(), list[Recount]()
    bus.configure(url="memory://", clock=clock, connect=recounting(counts, made))
    await bus.__aenter__()
    return clock, made[0]


async def settled(bus: Bus, clock: MovableClock) -> None:
    await App(bus, clock).settled()


# --- suspects ------------------------------------------------------------------------------------------------


async def test_suspects_are_handled_one_by_one_with_nothing_beside_them() -> None:
    bus = Bus()
    held: list[tuple[int, int, bool]] = []

    @bus.consumer("orders", concurrency=5)
    async def handle(order: Order, message: Message[Order]) -> None:
        (consumer,) = bus.session.consumers
        alone = "unibusalone" in message.attributes
        await asyncio.sleep(0)
        held.append((order.id, len(consumer.held), alone))

    counts: dict[str, int] = {}
    clock, driver = await opened(bus, counts)
    ids = [await bus.producer("orders").send(Order(id=number)) for number in range(10)]
    counts.update(dict.fromkeys(ids[2:5], 3))  # three were delivered for the third time
    async with bus.consuming():
        await settled(bus, clock)
        assert bus.stats()["orders"].suspects == 3
    await bus.__aexit__(None, None, None)
    assert sorted(number for number, _, _ in held) == list(range(10))
    assert {number for number, _, alone in held if alone} == {2, 3, 4}
    assert all(count == 1 for _, count, alone in held if alone)
    assert next(outcome for message_id, outcome in driver.settled if message_id == ids[3]) is Outcome.ACK


async def test_a_marked_message_is_convicted_at_its_third_delivery_before_it_runs() -> None:
    bus = Bus()
    runs: list[int] = []

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        runs.append(order.id)

    @bus.consumer("orders.dlq")
    async def bury(order: Order, message: Message[Order]) -> None:
        assert message.dead_letter is not None
        reasons.append((order.id, message.dead_letter.error_type, message.dead_letter.reason))

    reasons: list[tuple[int, str, str]] = []
    counts: dict[str, int] = {}
    clock, _ = await opened(bus, counts)
    queue = bus.session.sender_for(Queue("orders"))
    for number, count in ((1, 2), (2, 3), (3, 1)):
        counts[str(number)] = count
        attributes = {"unibusalone": "1"}
        future = queue.send(Outbound(b'{"id":%d}' % number, attributes, {}, None, str(number)))
        await future
        counts[str(number)] = count
    async with bus.consuming():
        await settled(bus, clock)
    await bus.__aexit__(None, None, None)
    assert sorted(runs) == [1, 3]
    ((number, error, reason),) = reasons
    assert (number, error) == (2, "unibus.errors.Crashed")
    assert "its delivery 3" in reason


async def test_a_marked_message_that_comes_beside_running_ones_starts_afresh() -> None:
    bus = Bus()
    go = asyncio.Event()
    runs: list[tuple[int, int]] = []

    @bus.consumer("orders", concurrency=2, prefetch=2)
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append((order.id, len(bus.session.consumers[0].held)))
        if order.id == 1:
            await go.wait()

    counts: dict[str, int] = {}
    clock, _ = await opened(bus, counts)
    async with bus.consuming():
        await bus.producer("orders").send(Order(id=1))
        await clock.quiet()
        counts["m"] = 2
        sender = bus.session.sender_for(Queue("orders"))
        sending = sender.send(Outbound(b'{"id":2}', {"unibusalone": "1"}, {}, None, "m"))
        await sending
        counts.setdefault("m", 2)
        await clock.quiet()
        assert [number for number, _ in runs] == [1]
        go.set()
        await settled(bus, clock)
    await bus.__aexit__(None, None, None)
    assert runs[-1] == (2, 1)


async def test_on_an_ordered_address_a_suspect_stays_in_place_and_is_convicted_there() -> None:
    bus = Bus()
    runs: list[int] = []

    @bus.consumer(Queue("orders", ordering="key"))
    async def handle(order: Order) -> None:
        runs.append(order.id)

    counts: dict[str, int] = {}
    clock, _ = await opened(bus, counts)
    ids = [await bus.producer("orders").send(Order(id=number), key="k") for number in range(6)]
    counts.update({ids[0]: 3, ids[1]: 5, ids[2]: 6})
    async with bus.consuming():
        assert bus.session.consumers[0].suspects.single_only
        await settled(bus, clock)
        assert not bus.session.consumers[0].suspects.single_only
        assert (bus.stats()["orders"].dead_lettered, bus.stats()["orders"].suspects) == (1, 0)
    await bus.__aexit__(None, None, None)
    assert runs == [0, 1, 3, 4, 5]


# --- dead letters of dead letters -------------------------------------------------------------------------------


async def test_an_exhausted_message_of_a_dead_letter_queue_is_given_back_later_and_health_says_so() -> None:
    bus = Bus("memory://")
    runs: list[float] = []
    fail = True

    @bus.consumer("orders.dlq")
    @retry(on=ValueError, attempts=1)
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append(t.clock.monotonic())
        if fail:
            raise ValueError

    async with app(bus) as t:
        await t.send("orders.dlq", Order(id=1))
        await t.clock.advance(150)
        assert runs == [1000.0, 1060.0, 1120.0]
        assert bus.health().reasons == ("orders.dlq: 3 re-sends or dead letters in a row failed",)
        assert bus.stats()["orders.dlq"].given_back == 2
        assert len(t.all_sent) == 1
        fail = False
        await t.settled()


async def test_a_dead_letter_queue_with_a_destination_of_its_own() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders.dlq")
    @dead_letter("hopeless")
    async def handle(order: Order) -> None:
        raise Reject("still no")

    async with app(bus) as t:
        await t.send("orders.dlq", Order(id=1))
        await t.settled()
        assert len(t.sent("hopeless")) == 1


# --- shutdown -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ordered", "attempt"), [(False, 2), (True, 1)])
async def test_a_short_retry_at_shutdown_keeps_its_attempt_where_it_can_be_resent(ordered: bool, attempt: int) -> None:
    clock = MovableClock()
    queue = Queue("orders", ordering="key" if ordered else "none")
    attempts: list[int] = []

    def make() -> Bus:
        bus = Bus("memory://short-retry", clock=clock)

        @bus.consumer(queue)
        @retry(on=ValueError, attempts=3, backoff=constant(0.9))
        async def handle(order: Order, message: Message[Order]) -> None:
            attempts.append(message.attempt)
            if len(attempts) == 1:
                raise ValueError

        return bus

    first, second = make(), make()
    async with second:
        async with first.consuming():
            await first.producer(queue).send(Order(id=1), key="k")
            await clock.quiet()
            assert attempts == [1]
        depth = await second.depth(queue)
        assert (depth.ready, depth.delayed) == ((1, 0) if ordered else (0, 1))
        async with second.consuming():
            await settled(second, clock)
    assert attempts == [1, attempt]
    assert clock.monotonic() == 1000.0 + (0.0 if ordered else 0.9)


# --- settling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "lost", "seconds"),
    [
        ([SettlementLost("stale", count=2)], 2, 0.0),  # as it says, not as many as were settled
        ([ConnectionLost("cut")], 0, 0.2),
        ([ConnectionLost("cut")] * 5, 1, 3.0),
        ([RuntimeError("a bug of the driver")], 1, 0.0),
        ([asyncio.CancelledError()], 1, 0.0),
    ],
)
async def test_settlements_that_fail_are_tried_again_or_counted(errors: list[Any], lost: int, seconds: float) -> None:
    bus = Bus()

    @bus.consumer("orders")
    async def handle(order: Order) -> None: ...

    clock, driver = await opened(bus, {})
    await bus.producer("orders").send(Order(id=1))  # one: how many share a settlement depends on how long they take
    driver.fail_settles = list(errors)
    async with bus.consuming():
        (consumer,) = bus.session.consumers
        await clock.advance(seconds)
        assert bus.stats()["orders"].settlements_lost == lost
        assert consumer.held == {}  # off our hands: nothing holds back the next fetch
    await bus.__aexit__(None, None, None)


async def test_what_is_lost_while_handled_is_cancelled_and_settled_by_nobody() -> None:
    bus = Bus()
    ended: list[str] = []

    @bus.consumer("orders", concurrency=2)
    async def handle(order: Order) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    clock, driver = await opened(bus, {})
    await bus.producer("orders").send_many([Order(id=number) for number in range(4)])
    async with bus.consuming():
        (consumer,) = bus.session.consumers
        await clock.quiet()
        driver.notify(Lost(list(consumer.held)))
        await clock.quiet()
        assert ended == ["ended", "ended"]
        assert consumer.held == {}
        assert driver.settled == []
        assert bus.stats()["orders"].lost == 4
        assert bus.stats()["orders"].lane_restarts == 0
        bus.release_now()
    await bus.__aexit__(None, None, None)


async def test_when_the_head_of_a_key_is_lost_what_stands_behind_it_goes_back_too() -> None:
    bus = Bus()
    seen: list[tuple[str | None, int]] = []
    first = asyncio.Event()

    @bus.consumer(Queue("orders", ordering="key"), concurrency=3)
    async def handle(order: Order, message: Message[Order]) -> None:
        if order.id == 0 and not first.is_set():
            first.set()
            await asyncio.Event().wait()
        seen.append((message.key, order.id))

    clock, driver = await opened(bus, {})
    for number in range(6):
        await bus.producer("orders").send(Order(id=number), key="ab"[number % 2])
    async with bus.consuming():
        await clock.quiet()
        assert first.is_set()
        (head,) = (d for lane in bus.session.consumers[0].lanes for d in lane.held)
        extend = driver.subscription.extend

        async def but_the_head(deliveries: Sequence[Delivery], seconds: float) -> None:
            await extend([delivery for delivery in deliveries if delivery is not head], seconds)

        driver.subscription.extend = but_the_head
        await settled(bus, clock)
        assert bus.stats()["orders"].lost == 1
        assert bus.stats()["orders"].given_back == 2
    await bus.__aexit__(None, None, None)
    assert [number for key, number in seen if key == "a"] == [0, 2, 4]
    assert [number for key, number in seen if key == "b"] == [1, 3, 5]


async def test_a_lane_that_dies_gives_back_what_it_had_and_frees_its_key() -> None:
    bus = Bus()
    runs: list[int] = []

    @bus.consumer(Queue("orders", ordering="key"), concurrency=2)
    async def handle(order: Order) -> None:
        runs.append(order.id)
        if runs == [0, 1]:
            raise ValueError

    clock, _ = await opened(bus, {})
    for number in range(4):
        await bus.producer("orders").send(Order(id=number), key="k")
    async with bus.consuming():
        (consumer,) = bus.session.consumers
        carry_out = consumer.verdicts.carry_out

        async def fail_once(delivery: Delivery, message: Any, error: BaseException) -> None:
            consumer.verdicts.carry_out = carry_out  # type: ignore[method-assign]
            raise RuntimeError("a bug of ours")

        consumer.verdicts.carry_out = fail_once  # type: ignore[method-assign]
        await settled(bus, clock)
        assert bus.stats()["orders"].lane_restarts == 1
        assert not bus.health().ready
    await bus.__aexit__(None, None, None)
    assert runs == [0, 1, 1, 2, 3]


@pytest.mark.parametrize(("count", "resent"), [(1, 0), (2, 1)])
async def test_a_marked_message_among_others_waits_for_those_that_run_and_they_go_back_that_do_not(
    count: int, resent: int
) -> None:
    bus = Bus()
    go = asyncio.Event()
    runs: list[tuple[int, int]] = []

    @bus.consumer("orders", concurrency=1, prefetch=40)
    async def handle(order: Order) -> None:
        runs.append((order.id, len(bus.session.consumers[0].held)))
        if order.id == 1:
            await go.wait()

    counts: dict[str, int] = {}
    clock, driver = await opened(bus, counts)
    async with bus.consuming():
        await bus.producer("orders").send_many([Order(id=number) for number in (1, 2, 3)])
        await clock.quiet()
        assert [number for number, _ in runs] == [1]
        sender = bus.session.sender_for(Queue("orders"))
        # In one call, so that they come in one batch.
        marked = Outbound(b'{"id":9}', {"unibusalone": "1"}, {}, None, "marked")
        plain = Outbound(b'{"id":4}', {}, {}, None, "plain")
        driver.count_once_sent["marked"] = count
        assert await sender.send_chunk([marked, plain]) == {}
        await clock.quiet()
        stats = bus.stats()["orders"]
        assert [number for number, _ in runs] == [1]
        assert stats.given_back == 3  # 2, 3 and 4, which had not started
        assert stats.suspects == resent
        go.set()
        await settled(bus, clock)
    await bus.__aexit__(None, None, None)
    assert sorted(number for number, _ in runs) == [1, 2, 3, 4, 9]
    assert dict(runs)[9] == 1
    if not resent:
        assert [number for number, _ in runs] == [1, 9, 2, 3, 4]


@pytest.mark.parametrize("delay", ["on", "off"])
async def test_what_is_released_at_shutdown_keeps_its_first_failure(delay: str) -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=3, backoff=constant(0.9))
    async def handle(order: Order) -> None:
        raise ValueError

    async with app(bus, f"memory://?delay={delay}") as t:
        await t.send("orders", Order(id=1))
        await t.send("orders", Order(id=2), headers={"a": "b"})
        await t.clock.quiet()
        await t.clock.advance(0.4)
    resent = t.sent("orders")[2:]
    assert [sent.attributes["unibusattempt"] for sent in resent] == ["2", "2"]
    assert {sent.attributes["unibusfirst"] for sent in resent} == {"2026-01-01T00:00:00.000Z"}
    assert [round(sent.delay, 6) for sent in resent] == ([0.5, 0.5] if delay == "on" else [0.0, 0.0])
    assert dict(resent[1].headers) == {"a": "b"}


async def test_attempts_in_the_process_count_for_a_resend_that_had_to_be_tried_again() -> None:
    bus = Bus()
    attempts: list[int] = []

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=5, backoff=lambda failures: 0.5 if failures < 3 else 30.0)
    async def handle(order: Order, message: Message[Order]) -> None:
        attempts.append(message.attempt)
        if len(attempts) == 3:
            driver.fail_sends = 2
        if len(attempts) < 5:
            raise ValueError

    clock, driver = await opened(bus, {})
    await bus.producer("orders").send(Order(id=1))
    async with bus.consuming():
        await settled(bus, clock)
        assert bus.stats()["orders"].retried == 4
        assert bus.stats()["orders"].send_failures == 2
    await bus.__aexit__(None, None, None)
    assert attempts == [1, 2, 3, 4, 5]


async def test_a_suspect_that_cannot_be_resent_waits_and_is_not_handled_beside_others() -> None:
    bus = Bus()
    runs: list[tuple[int, bool]] = []

    @bus.consumer("orders")
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append((order.id, "unibusalone" in message.attributes))

    counts: dict[str, int] = {}
    clock, driver = await opened(bus, counts)
    ids = [await bus.producer("orders").send(Order(id=number)) for number in range(3)]
    counts[ids[1]] = 3
    driver.fail_sends = 2
    async with bus.consuming():
        await settled(bus, clock)
        assert (bus.stats()["orders"].send_failures, bus.stats()["orders"].suspects) == (2, 1)
    await bus.__aexit__(None, None, None)
    assert sorted(runs) == [(0, False), (1, True), (2, False)]


async def test_a_look_up_that_the_client_library_cuts_off_says_that_nothing_was_sent() -> None:
    bus = Bus()
    _, driver = await opened(bus, {})
    cut = asyncio.CancelledError()

    async def declare(topology: Any) -> None:
        raise cut

    driver.declare = declare  # type: ignore[method-assign]
    try:
        sending = [bus.producer("orders").send(Order(id=number)) for number in range(3)]
        for sent in await asyncio.gather(*sending, return_exceptions=True):
            assert isinstance(sent, NotSent)
            assert sent.__cause__ is cut
    finally:
        await bus.__aexit__(None, None, None)


async def test_what_was_fetched_when_suspects_cannot_be_sorted_goes_back_and_is_handled() -> None:
    bus = Bus()
    runs: list[int] = []

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        runs.append(order.id)

    counts: dict[str, int] = {}
    clock, _ = await opened(bus, counts)
    ids = [await bus.producer("orders").send(Order(id=number)) for number in range(3)]
    counts[ids[1]] = 3
    async with bus.consuming():
        (consumer,) = bus.session.consumers
        sort = consumer.suspects.sort

        async def fail_once(batch: Sequence[Delivery]) -> Sequence[Delivery]:
            consumer.suspects.sort = sort  # type: ignore[method-assign]
            raise ConnectionLost("cut while the push was narrowed")

        consumer.suspects.sort = fail_once  # type: ignore[method-assign]
        await settled(bus, clock)
    await bus.__aexit__(None, None, None)
    assert sorted(runs) == [0, 1, 2]


async def test_a_marked_message_that_was_acked_is_not_sent_again_as_the_pull_ends() -> None:
    """It is in hand until the broker has heard of the ack, which takes its time."""
    faults, slow, queue = Faults(), Hold(), Queue("orders")
    bus = Bus("memory://", connect=faults.connect(registry.connect))
    faults.add("settle", slow)
    async with bus:
        await bus.session.driver.declare(Topology(create=(queue, queue.dead_letters)))
        await bus.session.driver.send(queue, [Outbound(b"1", {names.ALONE: "1"}, {}, None, "marked")])
        async with bus.pull(queue="orders", type=int) as deliveries:
            delivery = await deliveries.next()
            assert delivery is not None
            await delivery.ack()
            await slow.reached.wait()
            asyncio.get_running_loop().call_later(0.05, slow.release)
        assert await bus.depth(queue) == Depth(ready=0, in_flight=0, delayed=0)


async def test_a_suspect_that_is_taken_away_while_we_live_is_no_killer() -> None:
    """Lost twice in hand, with the connection say, it comes for the third time: the count alone would convict it."""
    runs, bus = list[int](), Bus("memory://")
    queue = Queue("orders")

    @bus.consumer(queue)
    async def handle(number: int, message: Message[int]) -> None:
        runs.append(message.delivery.deliveries or 0)
        if len(runs) <= 2:
            await asyncio.Event().wait()

    async with bus.consuming():
        driver = bus.session.driver
        assert isinstance(driver, MemoryDriver)
        await driver.send(queue, [Outbound(b"1", {names.ALONE: "1"}, {}, None, "marked")])
        for number in (1, 2):
            while len(runs) < number:
                await asyncio.sleep(0.001)
            for subscription in list(driver._subscriptions):
                assert isinstance(subscription, QueueSubscription)
                subscription.expire(NEVER)
        while len(runs) < 3:
            await asyncio.sleep(0.001)
        stats = bus.stats()["orders"]
        assert (stats.dead_lettered, stats.suspects, stats.lost) == (0, 2, 2)
    assert runs == [1, 1, 1], "re-sent, so that its count starts again"


async def test_what_matches_no_pattern_is_handled_by_nobody_even_as_a_suspect() -> None:
    """Its third delivery makes it a suspect, which would be re-sent, and be ours whatever its topic."""
    runs, bus = list[int](), Bus("memory://")
    source = TopicSubscription(("b.*",), "group")

    @bus.subscriber("b.*", group="group")
    async def handle(number: int) -> None:
        runs.append(number)

    clock, driver = await opened(bus, {})
    driver.count_once_sent["stale"] = 3
    async with bus.consuming():
        await bus.session.driver.send(source, [Outbound(b"1", {}, {}, None, "stale", topic="a.x")])
        await settled(bus, clock)
        stats = bus.stats()["group"]
        assert (runs, stats.dead_lettered, stats.suspects) == ([], 1, 0)
    await bus.__aexit__(None, None, None)

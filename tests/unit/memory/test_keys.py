"""Order by key in the queue model."""

from __future__ import annotations

import asyncio
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.memory.tools import Events, World, create, ids, now, out, outs
from unibus.driver import Delivery, Outbound, Outcome, Queue, Source, Topic, TopicSubscription
from unibus.memory import MemoryDriver
from unibus.memory.fifo import Entry
from unibus.memory.keyed import Keyed
from unibus.memory.queue_subscription import QueueSubscription
from unibus.memory.subscription import MemorySubscription
from unibus.testing.clock import MovableClock

ORDERED = Queue("ordered", ordering="key")


async def two_consumers(
    world: World, source: Source = ORDERED
) -> tuple[MemoryDriver, MemorySubscription, MemorySubscription]:
    driver = await world.driver()
    await driver.declare(create(source))
    a = await driver.subscribe(source, prefetch=10, notify=Events())
    b = await driver.subscribe(source, prefetch=10, notify=Events())
    return driver, a, b


async def test_a_key_stays_with_its_holder_while_any_of_it_is_in_flight(world: World) -> None:
    driver, a, b = await two_consumers(world)
    await driver.send(ORDERED, [out(1, "k"), out(2, "k"), out(3, "other"), out(4, "k")])
    [first] = await a.receive(1, 0)
    assert await now(b) == ["3"]
    second = await a.receive(1, 0)
    assert ids(second) == ["2"]
    await a.settle([first], Outcome.ACK)
    assert await now(b) == []
    await a.settle(second, Outcome.ACK)
    assert await now(b) == ["4"]


async def test_a_freed_key_wakes_another(world: World) -> None:
    driver, a, b = await two_consumers(world)
    await driver.send(ORDERED, outs(1, 2, key="k"))
    held = await a.receive(1, 0)
    waiting = asyncio.create_task(b.receive(10, 60))
    await world.clock.quiet()
    assert not waiting.done()
    await a.settle(held, Outcome.ACK)
    assert ids(await waiting) == ["2"]


async def test_a_message_for_a_held_key_wakes_its_holder_alone(world: World) -> None:
    driver, a, b = await two_consumers(world)
    await driver.send(ORDERED, outs(1, key="k"))
    await a.receive(1, 0)
    other = asyncio.create_task(b.receive(10, 5))
    await world.clock.quiet()
    holder = asyncio.create_task(a.receive(10, 5))
    await world.clock.quiet()
    await driver.send(ORDERED, outs(2, key="k"))
    assert ids(await holder) == ["2"]
    await world.clock.advance(5)
    assert list(other.result()) == []


async def test_what_is_given_back_comes_before_later_ones_of_its_key(world: World) -> None:
    driver, a, b = await two_consumers(world)
    await driver.send(ORDERED, outs(1, 2, 3, key="k"))
    one, two = await a.receive(2, 0)
    await a.settle([one], Outcome.NACK)
    assert await now(b) == []
    await a.settle([two], Outcome.NACK)
    assert await now(b) == ["1", "2", "3"]


async def test_a_key_waits_for_what_was_given_back_for_later(world: World) -> None:
    driver, a, b = await two_consumers(world)
    await driver.send(ORDERED, [out(1, "k"), out(2, "k"), out(3, "k"), out(4, "l"), out(5), out(6)])
    one, two = await a.receive(2, 0)
    [five] = [d for d in await b.receive(10, 0) if d.message_id == "5"]
    await b.settle([five], Outcome.NACK, delay=5)
    await a.settle([two], Outcome.NACK, delay=3)
    await a.settle([one], Outcome.NACK, delay=5)
    depth = await driver.depth(ORDERED)
    assert (depth.delayed, depth.in_flight, depth.ready) == (3, 2, 1)
    await driver.send(ORDERED, outs(7, key="k"))
    await world.clock.advance(4)
    assert await now(a) == []
    waiting = asyncio.create_task(b.receive(10, 60))
    await world.clock.advance(1)
    got = ids(waiting.result()) + await now(b)
    assert [name for name in got if name != "5"] == ["1", "2", "3", "7"]
    assert "5" in got


async def test_without_a_key_nothing_waits(world: World) -> None:
    driver, a, b = await two_consumers(world)
    await driver.send(ORDERED, outs(1, 2, 3))
    assert [await now(a, 1), await now(b, 1), await now(a)] == [["1"], ["2"], ["3"]]


async def test_keyed_and_keyless_leave_in_order_of_arrival(world: World) -> None:
    driver, a, _ = await two_consumers(world)
    await driver.send(ORDERED, [out(1, "k"), out(2), out(3, "l"), out(4, "k"), out(5)])
    page, _ = await driver.browse(ORDERED, None, 10)
    assert ids(page) == ["1", "2", "3", "4", "5"]
    assert await now(a) == ["1", "2", "3", "4", "5"]


async def test_a_closed_holder_frees_its_keys_in_order(world: World) -> None:
    driver, a, b = await two_consumers(world)
    await driver.send(ORDERED, outs(1, 2, 3, key="k"))
    await a.receive(2, 0)
    waiting = asyncio.create_task(b.receive(10, 60))
    await world.clock.quiet()
    await a.close()
    assert ids(await waiting) == ["1", "2", "3"]


async def test_an_ended_lease_frees_the_key(world: World) -> None:
    driver, a, b = await two_consumers(world)
    await driver.send(ORDERED, outs(1, 2, key="k"))
    await a.receive(1, 0)
    await world.clock.advance(30)
    assert await now(b) == ["1", "2"]


async def test_a_former_holder_has_no_claim_to_a_key(world: World) -> None:
    driver, a, b = await two_consumers(world)
    await driver.send(ORDERED, outs(1, 2, 3, key="k"))
    await a.settle(await a.receive(1, 0), Outcome.ACK)
    two, _ = await b.receive(2, 0)
    await b.settle([two], Outcome.NACK)
    assert await now(a) == []
    assert await now(b) == ["2"]


async def test_the_holder_too_waits_for_what_it_gave_back_for_later(world: World) -> None:
    driver, a, _ = await two_consumers(world)
    await driver.send(ORDERED, outs(1, 2, 3, key="k"))
    one, _ = await a.receive(2, 0)
    await a.settle([one], Outcome.NACK, delay=5)
    assert await now(a) == []
    await world.clock.advance(5)
    assert await now(a) == ["1", "3"]


async def test_a_subscription_that_left_is_forgotten(world: World) -> None:
    driver, a, _ = await two_consumers(world)
    await driver.send(ORDERED, outs(1, 2, key="k"))
    await a.receive(1, 0)
    assert isinstance(a, QueueSubscription)
    store = a.queue.store
    assert isinstance(store, Keyed)
    assert list(store._held) == [a]
    await a.close()
    assert store._held == {}


async def test_a_group_may_be_ordered(world: World) -> None:
    group = TopicSubscription(("a.*",), group="g", ordering="key")
    driver, a, b = await two_consumers(world, group)
    await driver.send(Topic("a.b"), outs(1, key="k"))
    await driver.send(Topic("a.c"), outs(2, key="k"))
    assert await now(a, 1) == ["1"]
    assert await now(b) == []


async def test_delayed_messages_get_their_place_when_due(world: World) -> None:
    driver, a, _ = await two_consumers(world)
    await driver.send(ORDERED, [out(1, "k", delay=1), out(2, "k")])
    await world.clock.advance(1)
    assert await now(a) == ["2", "1"]


def test_nothing_is_remembered_of_a_settled_key() -> None:
    store = Keyed(lambda: 0.0)
    names = ["a", "b", "a", None, "c", "a"]
    entries: list[Entry] = [(n, 0, 0.0, 0.0, Outbound(b"", {}, {}, name, str(n)), None) for n, name in enumerate(names)]
    store.add(entries)
    holder = object()
    taken = store.take(holder, 4)
    store.give_back(holder, taken[1:3])
    store.done(holder, [taken[0], taken[3]])
    rest = store.take(holder, 10)
    assert [entry[0] for entry in rest] == [1, 2, 4, 5]
    store.done(holder, rest)
    assert store.take(holder, 1) == []
    store.forget(holder)
    assert (store._keys, store._open, store._held) == ({}, [], {})


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "take", "take", "ack", "ack", "nack", "later", "close", "advance"]),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    max_size=60,
)


class _Play:
    """Random consumers of one ordered queue, checked against the rules after every step."""

    def __init__(self, world: World, driver: MemoryDriver) -> None:
        self.world = world
        self.driver = driver
        self.subscriptions: list[MemorySubscription] = []
        self.held: list[list[Delivery]] = [[], [], []]
        self.sent = 0
        self.done: set[int] = set()
        self.keys: dict[int, str | None] = {}

    async def step(self, action: str, who: int, number: int) -> None:
        subscription, held = self.subscriptions[who], self.held[who]
        chosen = random.Random(number * 7 + self.sent).sample(held, min(number, len(held)))
        match action:
            case "send":
                key = [None, "k", "l", "m"][number]
                self.keys[self.sent] = key
                await self.driver.send(ORDERED, [out(self.sent, key)])
                self.sent += 1
            case "take":
                await self.take(who, number + 1)
            case "advance":
                await self.world.clock.advance(number)
            case "close":
                held.clear()
                await subscription.close()
                self.subscriptions[who] = await self.subscribe()
            case _:
                outcome = Outcome.ACK if action == "ack" else Outcome.NACK
                await subscription.settle(chosen, outcome, delay=2.0 if action == "later" else 0.0)
                if action == "ack":
                    self.done |= {int(delivery.message_id) for delivery in chosen}
                self.held[who] = [delivery for delivery in held if delivery not in chosen]

    async def take(self, who: int, limit: int) -> None:
        for delivery in await self.subscriptions[who].receive(limit, 0):
            n = int(delivery.message_id)
            assert n not in self.done
            everywhere = [int(d.message_id) for held in self.held for d in held]
            assert n not in everywhere, "held twice"
            if self.keys[n] is not None:
                others = [h for other, held in enumerate(self.held) if other != who for h in held]
                assert self.keys[n] not in {d.key for d in others}, "two holders of one key"
                earlier = {m for m in range(n) if self.keys[m] == self.keys[n]} - self.done
                assert earlier <= set(everywhere), "an earlier message of the key is still there"
            self.held[who].append(delivery)

    async def subscribe(self) -> MemorySubscription:
        return await self.driver.subscribe(ORDERED, prefetch=100, notify=Events())


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
async def test_no_schedule_breaks_the_order_of_a_key(steps: list[Step]) -> None:
    world = World(MovableClock())
    driver = await world.driver("memory://?lease=0")
    await driver.declare(create(ORDERED))
    play = _Play(world, driver)
    play.subscriptions = [await play.subscribe() for _ in range(3)]
    for action, who, number in steps:
        await play.step(action, who, number)
    for who in range(3):
        await play.step("close", who, 0)
    await world.clock.advance(10)
    await play.take(0, 100)
    assert {int(d.message_id) for d in play.held[0]} | play.done == set(range(play.sent))
    await world.close()

"""Whatever consumers do, the low-water mark has no hole below it, and nothing is lost."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.memory.tools import QUEUE, World, create, out
from unibus.driver import Delivery, DriverEvent, Lost, Outcome, Revoking
from unibus.memory import MemoryDriver
from unibus.memory.log_broker import LogBroker
from unibus.memory.subscription import MemorySubscription
from unibus.testing.clock import MovableClock

URL = "memory://random?model=log&partitions=3&revoke_timeout=5"

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["send", "send", "take", "take", "take", "ack", "ack", "ack", "nack", "later", "join", "close",
             "vanish", "advance"]
        ),
        st.integers(0, 1000),
    ),
    max_size=80,
)  # fmt: skip


class _Member:
    def __init__(self, driver: MemoryDriver) -> None:
        self.driver = driver
        self.subscription: MemorySubscription
        self.held: list[Delivery] = []
        self.revoked: set[str] = set()

    async def join(self) -> None:
        self.subscription = await self.driver.subscribe(QUEUE, prefetch=20, notify=self.notify)

    def notify(self, event: DriverEvent) -> None:
        if isinstance(event, Revoking):
            assert set(event.deliveries) <= set(self.held), "revoked what was not in flight"
        elif isinstance(event, Lost):
            assert set(event.deliveries) <= set(self.held), "lost what was not in flight"
            self.held = [delivery for delivery in self.held if delivery not in event.deliveries]


class _Play:
    def __init__(self, world: World, root: MemoryDriver) -> None:
        self.world = world
        self.root = root
        self.members: list[_Member] = []
        self.sent: list[str] = []
        self.done: set[str] = set()
        self.committed = [0, 0, 0]

    async def join(self) -> None:
        if len(self.members) < 4:
            member = _Member(await self.world.driver(URL))
            await member.join()
            self.members.append(member)

    async def step(self, action: str, number: int) -> None:
        if action == "join" or not self.members:
            return await self.join()
        member = self.members[number % len(self.members)]
        dice = random.Random(number)
        match action:
            case "send":
                await self.send([None, "k", "l", "m"][number % 4])
            case "advance":
                await self.world.clock.advance(number % 7)
            case "take":
                await self.take(member, 1 + number % 5)
            case "close" | "vanish":
                self.members.remove(member)
                await member.driver.close() if action == "close" else member.driver.vanish()
            case _:
                chosen = dice.sample(member.held, min(1 + number % 4, len(member.held)))
                await self.settle(member, chosen, action)
        return None

    async def send(self, key: str | None) -> None:
        name = str(len(self.sent))
        self.sent.append(name)
        await self.root.send(QUEUE, [out(name, key)])

    async def take(self, member: _Member, limit: int) -> None:
        for delivery in await member.subscription.receive(limit, 0):
            everywhere = [d.message_id for other in self.members for d in other.held]
            assert delivery.message_id not in everywhere, "in flight twice"
            member.held.append(delivery)

    async def settle(self, member: _Member, chosen: list[Delivery], action: str) -> None:
        member.held = [delivery for delivery in member.held if delivery not in chosen]
        if action == "ack":
            self.done |= {delivery.message_id for delivery in chosen}
            await member.subscription.settle(chosen, Outcome.ACK)
        else:
            await member.subscription.settle(chosen, Outcome.NACK, delay=3.0 if action == "later" else 0.0)

    def check(self) -> None:
        """Below the mark all is done; the mark never goes back; all that is not done is still stored."""
        broker = self.root._broker
        assert isinstance(broker, LogBroker)
        kept: set[str] = set()
        for n, cursor in enumerate(broker._groups["orders"].cursors):
            assert cursor.committed >= self.committed[n], "the mark went back"
            self.committed[n] = cursor.committed
            kept |= {record[0].message_id for record in cursor.partition.records.values()}
        assert set(self.sent) - kept <= self.done, "committed what is not done"


@settings(max_examples=200, deadline=None)
@given(steps=STEPS)
async def test_no_schedule_leaves_a_hole_or_loses_a_message(steps: list[tuple[str, int]]) -> None:
    world = World(MovableClock())
    root = await world.driver(URL)
    await root.declare(create(QUEUE))
    play = _Play(world, root)
    for action, number in steps:
        await play.step(action, number)
        play.check()
    # Whatever is left arrives at the members that are left, or at a new one.
    await play.join()
    for _ in range(200):
        await world.clock.advance(5)
        for member in play.members:
            await play.take(member, 100)
            await play.settle(member, list(member.held), "ack")
            play.check()
        if play.done == set(play.sent) and (await root.depth(QUEUE)).ready == 0:
            break
    assert play.done == set(play.sent)
    depth = await root.depth(QUEUE)
    assert (depth.ready, depth.in_flight, depth.delayed) == (0, 0, 0)
    await world.close()

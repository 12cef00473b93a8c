"""Partitions that change hands."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.memory.tools import QUEUE, Events, World, create, ids, now, out, outs
from unibus.driver import Outcome, Revoking, Topic, TopicSubscription
from unibus.errors import SettlementLost
from unibus.memory import MemoryDriver
from unibus.memory.log_subscription import LogSubscription

TWO = "memory://?model=log&partitions=2"
GROUP = TopicSubscription(("order.*",), group="email")


async def joined(driver: MemoryDriver, events: Events, prefetch: int = 100) -> LogSubscription:
    subscription = await driver.subscribe(QUEUE, prefetch=prefetch, notify=events)
    assert isinstance(subscription, LogSubscription)
    return subscription


async def one_member_holding_four(world: World, events: Events) -> tuple[MemoryDriver, LogSubscription]:
    """Two partitions with the messages 1, 3 and 2, 4, all in flight."""
    driver = await world.driver(TWO)
    await driver.declare(create(QUEUE))
    await driver.send(QUEUE, outs(1, 2, 3, 4))
    return driver, await joined(driver, events)


def partitions(subscription: LogSubscription) -> set[int]:
    return {cursor.partition.index for cursor in subscription.cursors}


async def test_partitions_are_spread_evenly_and_few_move(world: World, events: Events) -> None:
    driver = await world.driver("memory://?model=log&partitions=7")
    await driver.declare(create(QUEUE))
    members = [await joined(driver, events)]
    assert len(members[0].cursors) == 7
    for count in (2, 3, 4):
        before = [partitions(member) for member in members]
        members.append(await joined(driver, events))
        sizes = [len(member.cursors) for member in members]
        assert sum(sizes) == 7
        assert max(sizes) - min(sizes) <= 1
        assert len(members) == count
        assert all(partitions(m) <= was for m, was in zip(members, before, strict=False))
    await members[0].close()
    sizes = [len(member.cursors) for member in members[1:]]
    assert sorted(sizes) == [2, 2, 3]


async def test_more_members_than_partitions(world: World, events: Events) -> None:
    driver = await world.driver(TWO)
    await driver.declare(create(QUEUE))
    members = [await joined(driver, events) for _ in range(4)]
    assert sorted(len(member.cursors) for member in members) == [0, 0, 1, 1]
    waiting = asyncio.create_task(members[3].receive(10, 60))
    await world.clock.quiet()
    await driver.send(QUEUE, outs(1, 2))
    await members[0].close()
    await members[1].close()
    await world.clock.quiet()
    assert len(waiting.result()) == 1


async def test_a_new_member_waits_until_the_old_one_has_settled(world: World, events: Events) -> None:
    driver, old = await one_member_holding_four(world, events)
    held = await old.receive(10, 0)
    new = await joined(driver, Events())
    [event] = events
    assert isinstance(event, Revoking)
    assert event.deadline == world.clock.monotonic() + 10
    gone = ids(event.deliveries)
    assert len(gone) == 2
    await driver.send(QUEUE, outs(5, 6))
    assert len(await now(old)) == 1  # of the partition that stays
    assert await now(new) == []
    moving = [d for d in held if d.message_id in gone]
    await old.settle(moving[:1], Outcome.ACK)
    assert await now(new) == []
    waiting = asyncio.create_task(new.receive(10, 60))
    await old.settle(moving[1:], Outcome.REJECT)
    [fresh] = await waiting
    assert fresh.message_id in ("5", "6")
    assert fresh.redelivered is False
    assert events.lost == []
    await world.clock.advance(20)
    assert events.lost == []


async def test_what_is_unsettled_at_the_deadline_is_lost(world: World, events: Events) -> None:
    driver, old = await one_member_holding_four(world, events)
    held = await old.receive(10, 0)
    new = await joined(driver, Events())
    gone = [d for d in held if d.message_id in events.revoking]
    await old.settle(gone[1:], Outcome.ACK)  # above the low-water mark
    await world.clock.advance(9.9)
    assert (events.lost, await now(new)) == ([], [])
    await world.clock.advance(0.1)
    assert events.lost == ids(gone[:1])
    again = await new.receive(10, 0)
    assert [(d.message_id, d.redelivered) for d in again] == [(d.message_id, True) for d in gone]
    with pytest.raises(SettlementLost):
        await old.settle(held, Outcome.ACK)
    await new.settle(again, Outcome.ACK)
    assert await now(old) + await now(new) == []
    # What the first owner had finished above the mark was handed out again and left no trace.
    assert all(not cursor._done for cursor in new.cursors)
    assert (await driver.depth(QUEUE)).in_flight == 0


async def test_a_stale_settle_commits_nothing(world: World, events: Events) -> None:
    driver, old = await one_member_holding_four(world, events)
    held = await old.receive(10, 0)
    new = await joined(driver, Events())
    await world.clock.advance(10)
    stale = [d for d in held if d.message_id in events.lost]
    for outcome in Outcome:
        with pytest.raises(SettlementLost, match="2 of 2"):
            await old.settle(stale, outcome)
    await new.close()
    kept = [d for d in held if d not in stale]
    assert sorted(await now(old)) == sorted(ids(stale))
    await old.settle(kept, Outcome.ACK)


async def test_a_nack_while_revoking_is_released_to_the_next_owner(world: World, events: Events) -> None:
    driver, old = await one_member_holding_four(world, events)
    held = await old.receive(10, 0)
    new = await joined(driver, Events())
    gone = [d for d in held if d.message_id in events.revoking]
    await old.settle(gone[:1], Outcome.NACK)
    assert await now(old) == []
    await old.settle(gone[1:], Outcome.ACK)
    assert events.lost == []
    assert await now(new) == ids(gone)


async def test_what_waits_for_its_delay_moves_along(world: World, events: Events) -> None:
    driver, old = await one_member_holding_four(world, events)
    held = await old.receive(10, 0)
    await old.settle(held, Outcome.NACK, delay=100)
    new = await joined(driver, Events())
    assert events == []  # nothing was in flight
    assert len(await now(new)) == 2
    assert await now(old) == []
    await world.clock.advance(100)
    assert len(await now(old)) == 2


async def test_a_member_that_leaves_while_it_is_awaited(world: World, events: Events) -> None:
    driver, old = await one_member_holding_four(world, events)
    held = await old.receive(10, 0)
    new = await joined(driver, Events())
    await new.close()
    gone = [d for d in held if d.message_id in events.revoking]
    await driver.send(QUEUE, outs(5, 6))
    assert len(await now(old)) == 1  # it was told that nothing more comes from that partition
    await old.settle(gone, Outcome.ACK)
    assert len(await now(old)) == 1  # now it is the owner anew


async def test_the_owner_leaves_while_revoking(world: World, events: Events) -> None:
    driver, old = await one_member_holding_four(world, events)
    await old.receive(10, 0)
    new = await joined(driver, Events())
    await old.close()
    assert sorted(await now(new)) == ["1", "2", "3", "4"]
    assert world.clock.next_due() is None


async def test_a_vanished_member_is_replaced_at_once_from_the_mark(world: World, events: Events) -> None:
    victim = await world.driver("memory://shared?model=log&partitions=2")
    survivor = await world.driver("memory://shared?model=log&partitions=2")
    await victim.declare(create(QUEUE))
    dying, heir = await joined(victim, events), await joined(survivor, Events())
    await survivor.send(QUEUE, outs(*range(8)))
    a, b, c, d = await dying.receive(10, 0)
    await dying.settle([a, c], Outcome.ACK)
    others = await heir.receive(10, 0)
    waiting = asyncio.create_task(heir.receive(10, 60))
    await world.clock.quiet()
    victim.vanish()
    again = await waiting
    assert [(x.message_id, x.redelivered) for x in again] == [(x.message_id, True) for x in (b, c, d)]
    assert len(others) == 4
    assert events == []


async def test_a_full_member_has_room_again_after_a_loss(world: World, events: Events) -> None:
    driver = await world.driver(TWO)
    await driver.declare(create(QUEUE))
    await driver.send(QUEUE, outs(1, 2, 3, 4, 5, 6))
    old = await joined(driver, events, prefetch=4)
    held = [*await old.receive(2, 0), *await old.receive(2, 0)]
    await joined(driver, Events())
    waiting = asyncio.create_task(old.receive(10, 60))
    await world.clock.advance(9)
    assert not waiting.done()
    await world.clock.advance(1)
    assert (len(held), len(events.lost)) == (4, 2)
    assert ids(waiting.result()) in (["5"], ["6"])


async def test_a_topic_that_appears_is_shared_by_the_members(world: World, events: Events) -> None:
    driver = await world.driver(TWO)
    await driver.declare(create(GROUP))
    members = [await driver.subscribe(GROUP, prefetch=10, notify=events) for _ in range(2)]
    for name in ("order.a", "order.b"):
        await driver.send(Topic(name), outs(f"{name}1", f"{name}2"))
    got = [await now(member) for member in members]
    assert sorted(got[0] + got[1]) == ["order.a1", "order.a2", "order.b1", "order.b2"]
    assert [len(names) for names in got] == [2, 2]


async def test_a_key_is_with_one_member_at_a_time(world: World, events: Events) -> None:
    driver = await world.driver(TWO)
    await driver.declare(create(QUEUE))
    one = await joined(driver, events)
    await driver.send(QUEUE, [out(n, key=f"k{n % 4}") for n in range(12)])
    held = await one.receive(100, 0)
    two = await joined(driver, Events())
    await driver.send(QUEUE, [out(n, key=f"k{n % 4}") for n in range(12, 24)])
    assert await now(two) == []
    await one.settle(held, Outcome.ACK)
    mine, theirs = await one.receive(100, 0), await two.receive(100, 0)
    assert not {d.key for d in mine} & {d.key for d in theirs}
    assert len(mine) + len(theirs) == 12


async def test_a_partition_is_revoked_once(world: World, events: Events) -> None:
    driver = await world.driver("memory://?model=log&partitions=3")
    await driver.declare(create(QUEUE))
    await driver.send(QUEUE, outs(1, 2, 3))
    old = await joined(driver, events)
    await old.receive(10, 0)
    second = await joined(driver, Events())
    await world.clock.advance(5)
    third = await joined(driver, Events())
    assert len(events.revoking) == len(set(events.revoking)) == 2
    await world.clock.advance(5)
    assert len(events.lost) == 1
    await world.clock.advance(5)
    assert sorted(events.lost) == sorted(events.revoking)
    assert [len(member.cursors) for member in (old, second, third)] == [1, 1, 1]


async def test_the_deadline_is_kept_whatever_else_is_due(world: World, events: Events) -> None:
    driver, old = await one_member_holding_four(world, events)
    held = await old.receive(10, 0)
    await joined(driver, Events())
    stays = [delivery for delivery in held if delivery.message_id not in events.revoking]
    await old.settle(stays, Outcome.NACK, delay=9.5)
    await world.clock.advance(9.5)
    assert events.lost == []
    await world.clock.advance(0.5)
    assert len(events.lost) == 2


async def test_no_revoke_timeout_loses_at_once(world: World, events: Events) -> None:
    driver = await world.driver(TWO + "&revoke_timeout=0")
    await driver.declare(create(QUEUE))
    await driver.send(QUEUE, outs(1, 2))
    old = await joined(driver, events)
    await old.receive(10, 0)
    new = await joined(driver, Events())
    await world.clock.advance(0)
    assert len(events.lost) == 1
    assert await now(new) == events.lost

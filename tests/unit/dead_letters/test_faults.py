"""Replay and purge while things fail: nothing leaves before it is confirmed, and the books balance."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from tests.contract.harnesses import MemoryHarness
from tests.unit.dead_letters.tools import Shop, letter, put, record
from unibus import Bus, Queue, registry
from unibus.dead_letters.report import Report
from unibus.driver import Outcome
from unibus.errors import BatchError, ConnectionLost, MessageTooLarge, SettlementLost
from unibus.memory import MemoryDriver
from unibus.memory.alarm import NEVER
from unibus.memory.queue_subscription import QueueSubscription
from unibus.testing.faults import (
    Call,
    Fault,
    Faults,
    Hold,
    Kind,
    Proceed,
    innermost,
    raising,
    raising_after,
    rejecting,
    unanswered,
)


def to(name: str, outcome: Outcome | None = None) -> Callable[[Call], bool]:
    def is_to(call: Call) -> bool:
        return call.name == name and call.outcome is outcome

    return is_to


async def test_nothing_leaves_before_it_is_confirmed(harness: MemoryHarness) -> None:
    faults = Faults()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(6)])
        faults.calls.clear()
        await harness.passing(shop.bus.dead_letters("orders").replay("id~00000"))
        calls = [call for call in faults.calls if call.kind in ("send", "settle")]
        sends = [index for index, call in enumerate(calls) if call.kind == "send" and call.name == "orders"]
        acks = [index for index, call in enumerate(calls) if call.kind == "settle" and call.name == "orders.dlq"]
        assert max(sends) < min(acks)
        await shop.has(harness, dead=0, handled=6)


@pytest.mark.parametrize("fault", [rejecting(lambda m: m.body == b"2"), raising(ConnectionLost)], ids=["one", "all"])
async def test_what_is_not_stored_stays(harness: MemoryHarness, fault: Fault) -> None:
    faults = Faults()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(6)])
        faults.add("send", fault, when=to("orders"), times=None)
        report = await harness.passing(shop.bus.dead_letters("orders").replay())
        assert not report.complete
        assert report.done + report.failed == 6
        assert bool(report.stopped) is (report.done == 0)
        await shop.has(harness, dead=report.failed, handled=report.done)
        faults.clear()
        await harness.passing(shop.bus.dead_letters("orders").replay())
        await shop.has(harness, dead=0, handled=6)
    assert set(shop.runs.values()) == {1}


async def test_what_may_be_stored_stays_and_says_so(harness: MemoryHarness) -> None:
    faults = Faults()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(3)])
        faults.add("send", unanswered(lambda m: m.body == b"1"), when=to("orders"))
        report = await harness.passing(shop.bus.dead_letters("orders").replay())
        await shop.has(harness, dead=1, handled=3)
    assert (report.done, report.failed) == (2, 1)
    assert "no answer" in report.reasons["order-000001"]
    assert "no answer" in report.stopped


async def test_letters_that_were_taken_away_are_counted(harness: MemoryHarness) -> None:
    faults = Faults()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(3)])
        faults.add("settle", raising(lambda: SettlementLost("gone", count=2)), when=to("orders.dlq", Outcome.ACK))
        report = await harness.passing(shop.bus.dead_letters("orders").replay())
    assert (report.done, report.unsettled, report.complete) == (3, 2, False)


@pytest.mark.parametrize("lost_at", ["send", "settle"])
async def test_what_is_taken_away_comes_again_and_is_replayed_once(harness: MemoryHarness, lost_at: Kind) -> None:
    if harness.capabilities.positional:
        pytest.skip("a log takes away partitions, when others come")
    faults, held = Faults(), Hold(answer=lost_at == "send")
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(8)])
        faults.add(lost_at, held, when=to("orders") if lost_at == "send" else to("orders.dlq", Outcome.ACK))
        running = asyncio.create_task(shop.bus.dead_letters("orders").replay("id!~5"))
        await harness.until(held.reached.is_set, "it is replayed, and not acked yet")
        memory = innermost(shop.bus.driver)
        assert isinstance(memory, MemoryDriver)
        for subscription in memory._subscriptions:
            if isinstance(subscription, QueueSubscription) and subscription.source.name == "orders.dlq":
                subscription.expire(NEVER)
        held.release()
        report = await harness.passing(running)
        await shop.has(harness, dead=1, handled=7)
    assert (report.total, report.done, report.unsettled, report.stopped) == (8, 7, 0, "")
    assert set(shop.runs.values()) == {1}


async def test_a_broker_that_goes_away_ends_the_run_with_a_report(harness: MemoryHarness) -> None:
    faults, seen = Faults(), list[Report]()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(300)])
        faults.add("receive", raising(ConnectionLost), when=to("orders.dlq"), skip=1)
        with pytest.raises(ConnectionLost):
            await harness.passing(shop.bus.dead_letters("orders").replay(progress=seen.append))
        await shop.has(harness, dead=300 - seen[-1].done, handled=seen[-1].done)
        assert 0 < seen[-1].done < 300
        await harness.passing(shop.bus.dead_letters("orders").replay())
        await shop.has(harness, dead=0, handled=300)
    assert set(shop.runs.values()) == {1}


@pytest.mark.parametrize("killed_at", ["send", "settle"])
async def test_a_tool_that_is_killed_loses_nothing_and_repeats_what_was_in_flight(
    harness: MemoryHarness, killed_at: Kind
) -> None:
    shop, faults, held = Shop(harness), Faults(), Hold(answer=killed_at == "send")
    shop.mend()
    tool = harness.bus(faults=faults)
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(400)])
        async with harness.connected(tool):
            name = "orders" if killed_at == "send" else "orders.dlq"
            faults.add(killed_at, held, when=lambda call: call.name == name, skip=1)
            running = asyncio.create_task(tool.dead_letters("orders").replay("id!~7"))
            await harness.until(held.reached.is_set, "the second batch is replayed")
            await harness.abandon(tool)
            held.release()
            await harness.until(running.done, "the run has ended")
            assert running.exception() is not None or not running.result().complete
        await harness.passing(shop.bus.dead_letters("orders").replay("id!~7"))
        meant = {n for n in range(400) if "7" not in str(n)}
        await harness.until(lambda: set(shop.handled) == meant, "all are handled")
        await harness.silent()
        left = {int(one.body or b"") for one in await shop.bus.dead_letters("orders").browse(limit=None)}
    assert left == set(range(400)) - meant
    assert max(shop.runs.values()) <= 2
    assert sum(count == 2 for count in shop.runs.values()) <= 100, "a batch at most"


async def test_who_is_cancelled_ends_what_is_in_flight(harness: MemoryHarness) -> None:
    faults, hold = Faults(), Hold(answer=True)
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        messages = [letter(n, record()) for n in range(20)]
        await put(shop.bus.driver, Queue("orders.dlq"), messages)
        faults.add("send", hold, when=to("orders"))
        running = asyncio.create_task(shop.bus.dead_letters("orders").replay("id!~5"))
        await harness.until(hold.reached.is_set, "a replay is stored, and not confirmed yet")
        running.cancel()
        await harness.until(lambda: shop.handled.total() == 18, "they are handled")
        assert not running.done()
        hold.release()
        await harness.until(running.done, "it ends")
        assert running.cancelled()
        await shop.has(harness, dead=2, handled=18)
        await harness.passing(shop.bus.dead_letters("orders").replay())
        await shop.has(harness, dead=0, handled=20)
    assert set(shop.runs.values()) == {1}


async def test_what_stays_in_a_log_is_written_anew_before_the_position_moves(harness: MemoryHarness) -> None:
    if not harness.capabilities.positional:
        pytest.skip("letters are given back")
    faults = Faults()
    shop = Shop(harness, faults)
    shop.mend()
    async with harness.running(shop.bus):
        await put(shop.bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(10)])
        faults.add("send", raising_after(ConnectionLost), when=to("orders.dlq"))
        with pytest.raises(ConnectionLost):
            await harness.passing(shop.bus.dead_letters("orders").replay("id~4"))
        left = {one.body for one in await harness.passing(shop.bus.dead_letters("orders").browse(limit=None))}
        assert left >= {str(n).encode() for n in range(10) if n != 4}, "written twice perhaps, and none lost"


async def test_the_mark_of_a_run_never_keeps_a_letter_from_fitting() -> None:
    """A record is cut until the message fits to the byte: what stays is written anew without the mark, then."""
    faults = Faults()
    bus = Bus("memory://?model=log", connect=faults.connect(registry.connect))
    async with bus:
        await put(bus.driver, Queue("orders"), [])
        await put(bus.driver, Queue("orders.dlq"), [letter(n, record()) for n in range(4)])
        faults.add("send", full, when=to("orders.dlq"), times=None)
        report = await bus.dead_letters("orders").replay("id~2")
        assert (report.done, report.unmatched) == (1, 3)
        left = await bus.dead_letters("orders").browse()
        assert {one.body for one in left} == {b"0", b"1", b"3"}


async def full(call: Call, proceed: Proceed) -> None:
    """A broker that has room for letters as they were, and for no more."""
    large = {index: MessageTooLarge(1, 0) for index, one in enumerate(call.items) if "unibusrun" in one.attributes}
    if large:
        raise BatchError(large)
    await proceed(call.items)


@pytest.mark.parametrize("seed", range(12))
async def test_books_balance_while_all_goes_on_at_once(harness: MemoryHarness, seed: int) -> None:
    """Replays of a part, and another, and purges, while new letters come and old ones fail again."""
    rng = random.Random(seed)
    shop = Shop(harness)
    purged: set[int] = set()
    async with harness.running(shop.bus):
        box = shop.bus.dead_letters("orders")
        count = 0
        for _ in range(rng.randint(3, 6)):
            new = range(count, count + rng.randint(0, 60))
            count += len(new)
            keys = rng.choice([None, lambda n: f"k{n % 5}"])
            shop.broken = None if rng.random() < 0.5 else {n for n in range(count) if rng.random() < 0.5}
            sending = asyncio.create_task(shop.bus.producer("orders").send_many(new, key=keys))
            where = rng.choice([None, "id~a", f"reason~order {rng.randint(0, 9)}", "replays<2"])
            rate = rng.choice([None, 1, 40])
            before = set(shop.handled)
            if rng.random() < 0.2:
                report = await harness.passing(box.purge(where))
                await harness.passing(sending)
                await harness.silent()
                left = [int(one.body or b"") for one in await box.browse(limit=None)]
                gone = set(range(count)) - set(left) - set(shop.handled) - purged
                assert len(gone) == report.done
                purged |= gone
            else:
                await harness.passing(box.replay(where, rate=rate, limit=rng.choice([None, 7]), force=True))
            await harness.passing(sending)
            await harness.silent()
            assert before <= set(shop.handled)
        left = [int(one.body or b"") for one in await box.browse(limit=None)]
    assert len(left) == len(set(left))
    assert sorted([*left, *shop.handled, *purged]) == list(range(count))
    assert set(shop.handled.values()) <= {1}, "no effect twice"

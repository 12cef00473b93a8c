"""What drivers keep between the broker and the core."""

from __future__ import annotations

import asyncio

import pytest

from unibus.driver import Delivery, SystemClock
from unibus.errors import ConnectionLost, NotOpen
from unibus.inbox import LOST, Inbox


def inbox(prefetch: int = 3) -> Inbox:
    return Inbox("queue", prefetch, SystemClock())


def delivery(name: str) -> Delivery:
    return Delivery(b"", {}, {}, None, name, "queue", None, None, False, name)


async def test_a_receive_returns_what_comes_and_does_not_wait_to_fill() -> None:
    box = inbox()
    asyncio.get_running_loop().call_later(0.01, box.put, [delivery("1")])
    assert [one.message_id for one in await box.receive(10, 5.0)] == ["1"]
    assert not await box.receive(10, 0.01)


async def test_a_cancelled_receive_loses_nothing() -> None:
    box = inbox()
    receiving = asyncio.ensure_future(box.receive(10, 5.0))
    await asyncio.sleep(0)
    box.put([delivery("1")])
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    assert [one.message_id for one in await box.receive(10, 5.0)] == ["1"]


async def test_no_more_than_the_prefetch_is_handed_out_or_wanted() -> None:
    box = inbox(prefetch=2)
    assert box.wanted == 0, "nobody asks"
    receiving = asyncio.ensure_future(box.receive(10, 5.0))
    await box.wait_until_wanted(5.0)
    assert box.wanted == 2
    first, second, third = delivery("1"), delivery("2"), delivery("3")
    box.put([first, second, third])
    assert await receiving == [first, second]
    assert (box.room, box.wanted) == (-1, 0)
    assert not await box.receive(10, 0.01)
    ours, stale = box.begin([first])
    assert (ours, stale) == ([first], 0)
    assert not await box.receive(10, 0.01), "it is not settled yet"
    box.done(ours)
    assert await box.receive(10, 0.01) == [third]


async def test_settling_twice_is_fine_and_settling_what_was_lost_is_stale() -> None:
    box = inbox()
    one, two = delivery("1"), delivery("2")
    box.put([one, two])
    await box.receive(10, 0.0)
    assert box.lose([two]) == [two]
    assert two.token is LOST
    assert box.begin([one, two]) == ([one], 1)
    assert box.begin([one]) == ([], 0), "on its way"
    box.failed([one])
    assert box.begin([one]) == ([one], 0), "the call failed: once more"
    box.done([one])
    assert box.begin([one]) == ([], 0)


async def test_what_nobody_received_is_lost_without_a_word() -> None:
    box = inbox()
    one = delivery("1")
    box.put([one])
    assert box.lose([one]) == []
    assert not await box.receive(10, 0.01)


async def test_at_the_end_a_pending_receive_returns_and_a_later_one_raises() -> None:
    box = inbox()
    held = delivery("1")
    box.put([held])
    await box.receive(1, 0.0)
    receiving = asyncio.ensure_future(box.receive(10, 5.0))
    await asyncio.sleep(0)
    assert box.end() == [held]
    assert await receiving == []
    with pytest.raises(NotOpen):
        await box.receive(1, 0.0)
    assert box.begin([held]) == ([], 1)


async def test_a_lost_connection_is_told_to_a_pending_receive() -> None:
    box = inbox()
    receiving = asyncio.ensure_future(box.receive(10, 5.0))
    await asyncio.sleep(0)
    box.end(ConnectionLost("cut"))
    with pytest.raises(ConnectionLost):
        await receiving
    with pytest.raises(ConnectionLost):
        box.check_connected()

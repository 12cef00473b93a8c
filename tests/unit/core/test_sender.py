"""Coalescing and key slots: what is stored of a key is in the order of the calls, and errors name the holes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.core.orders import Order
from tests.unit.core.recount import opened
from unibus import Bus
from unibus.coalesce import Coalescer
from unibus.driver import Address, Limits, Outbound, Queue
from unibus.errors import BatchError, DestinationNotFound, NotSent, OutcomeUnknown, Rejected
from unibus.sender import Sender


class Broker:
    """Stores what it is sent, call by call; `hold` keeps calls open, `fail` picks errors."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.stored: list[Outbound] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failing: dict[str, Exception] = {}
        self.error: BaseException | None = None
        self.in_flight = self.most_in_flight = 0

    async def send(self, address: Address, messages: Sequence[Outbound], /) -> None:
        self.calls.append([message.message_id for message in messages])
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
            errors = {}
            for index, message in enumerate(messages):
                if message.message_id in self.failing:
                    errors[index] = self.failing[message.message_id]
                else:
                    self.stored.append(message)
            if errors:
                raise BatchError(errors)
        finally:
            self.in_flight -= 1

    def ids(self) -> list[str]:
        return [message.message_id for message in self.stored]


def outbound(number: int | str, key: str | None = None, size: int = 0) -> Outbound:
    return Outbound(b"x" * size, {}, {}, key, str(number))


def sender(broker: Broker, *, ordered: bool = False, **limits: int) -> Sender:
    return Sender(Queue("orders"), Limits(**limits), broker.send, ordered=ordered)


async def ticks(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_comes_in_one_tick_is_one_call_and_an_idle_sender_holds_no_task() -> None:
    broker = Broker()
    s = sender(broker)
    await asyncio.gather(*[s.send(outbound(number)) for number in range(10)])
    assert broker.calls == [[str(number) for number in range(10)]]
    await ticks()
    assert len(asyncio.all_tasks()) == 1
    assert s.unsent == 0


async def test_what_comes_during_a_call_is_the_next_batch() -> None:
    broker = Broker()
    broker.gate.clear()
    s = sender(broker)
    first = s.send(outbound(0))
    await ticks()
    rest = [s.send(outbound(number)) for number in range(1, 6)]
    await ticks()
    assert broker.calls == [["0"]]
    assert s.unsent == 6
    broker.gate.set()
    await asyncio.gather(first, *rest)
    assert broker.calls == [["0"], ["1", "2", "3", "4", "5"]]


@pytest.mark.parametrize(("waiting", "calls"), [(9, 1), (10, 2)])
async def test_a_further_call_starts_only_when_enough_wait(waiting: int, calls: int) -> None:
    broker = Broker()
    broker.gate.clear()
    s = sender(broker, calls=4, min_messages=10)
    futures = [s.send(outbound("first"))]
    await ticks()
    futures += [s.send(outbound(number)) for number in range(waiting)]
    await ticks()
    assert len(broker.calls) == calls
    broker.gate.set()
    await asyncio.gather(*futures)


@pytest.mark.parametrize(
    ("waiting", "calls"), [(31, [31]), (32, [16, 16]), (40, [20, 20]), (64, [16, 16, 16, 16]), (400, [100] * 4)]
)
async def test_what_waits_is_shared_between_the_calls_that_it_is_worth(waiting: int, calls: list[int]) -> None:
    broker = Broker()
    broker.gate.clear()
    s = sender(broker, calls=4, min_messages=16, messages=256)
    futures = [s.send(outbound(number)) for number in range(waiting)]
    await ticks(10)
    assert [len(call) for call in broker.calls] == calls
    assert [one for call in broker.calls for one in call] == [str(number) for number in range(waiting)]
    broker.gate.set()
    await asyncio.gather(*futures)


async def test_limits_of_messages_bytes_and_calls() -> None:
    broker = Broker()
    broker.gate.clear()
    s = sender(broker, messages=3, calls=2)
    futures = []
    for number in range(7):  # each in a tick of its own
        futures.append(s.send(outbound(number)))
        await ticks()
    broker.gate.set()
    await asyncio.gather(*futures)
    assert broker.most_in_flight == 2
    assert max(map(len, broker.calls)) == 3
    broker = Broker()
    s = sender(broker, bytes=10)
    await asyncio.gather(*[s.send(outbound(number, size=size)) for number, size in enumerate([4, 6, 1, 25, 10])])
    assert broker.calls == [["0", "1"], ["2"], ["3"], ["4"]]


async def test_errors_go_to_their_messages_and_the_rest_is_sent() -> None:
    broker = Broker()
    broker.failing = {"1": Rejected("full")}
    s = sender(broker)
    results = await asyncio.gather(*[s.send(outbound(number)) for number in range(3)], return_exceptions=True)
    assert [type(result) for result in results] == [type(None), Rejected, type(None)]
    assert broker.ids() == ["0", "2"]
    errors = await s.send_chunk([outbound(number) for number in range(3)])
    assert {index: type(error) for index, error in errors.items()} == {1: Rejected}


async def test_an_error_of_the_call_is_everybodys() -> None:
    broker = Broker()
    broker.error = DestinationNotFound("no queue")
    s = sender(broker)
    for result in await asyncio.gather(*[s.send(outbound(n)) for n in range(3)], return_exceptions=True):
        assert isinstance(result, DestinationNotFound)


async def test_a_cancellation_inside_the_client_library_is_an_unknown_outcome() -> None:
    broker = Broker()
    broker.error = asyncio.CancelledError()
    s = sender(broker)
    with pytest.raises(OutcomeUnknown) as caught:
        await s.send(outbound(0))
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    broker.error = None
    await s.send(outbound(1))
    assert broker.ids() == ["1"]


async def test_a_cancelled_send_that_has_not_left_is_not_sent() -> None:
    broker = Broker()
    broker.gate.clear()
    s = sender(broker)
    first = s.send(outbound(0))
    await ticks()
    second, third = s.send(outbound(1)), s.send(outbound(2))
    second.cancel()
    broker.gate.set()
    await asyncio.gather(first, third)
    assert broker.ids() == ["0", "2"]


@pytest.mark.parametrize("ordered", [True, False])
async def test_when_all_that_waited_was_cancelled_the_sender_goes_on(ordered: bool) -> None:
    broker = Broker()
    s = sender(broker, ordered=ordered)
    gone = [s.send(outbound(number, key="k")) for number in range(5)]
    for future in gone:
        future.cancel()
    await ticks()
    assert (broker.calls, s.unsent) == ([], 0)
    await s.send(outbound(9, key="k"))
    assert broker.ids() == ["9"]


async def test_a_key_is_in_one_call_at_a_time() -> None:
    broker = Broker()
    broker.gate.clear()
    s = sender(broker, ordered=True, calls=8)
    futures = [s.send(outbound(0, key="a"))]
    await ticks()
    futures += [s.send(outbound(1, key="a")), s.send(outbound(2, key="b"))]
    await ticks()
    assert broker.calls == [["0"], ["2"]]  # b may go beside a, a's second may not
    broker.gate.set()
    await asyncio.gather(*futures)
    assert broker.calls == [["0"], ["2"], ["1"]]


async def test_what_is_queued_behind_a_failure_of_its_key_is_not_sent_and_later_calls_start_afresh() -> None:
    broker = Broker()
    broker.gate.clear()
    broker.failing = {"0": Rejected("no")}
    s = sender(broker, ordered=True, calls=8)
    first = s.send(outbound(0, key="a"))
    await ticks()
    behind = [s.send(outbound(1, key="a")), s.send(outbound(2, key="a"))]
    other = s.send(outbound(3, key="b"))
    await ticks()
    broker.gate.set()
    results = await asyncio.gather(first, *behind, other, return_exceptions=True)
    assert [type(result) for result in results] == [Rejected, NotSent, NotSent, type(None)]
    await s.send(outbound(4, key="a"))
    assert broker.ids() == ["3", "4"]


async def test_abort_tells_every_sender() -> None:
    broker = Broker()
    broker.gate.clear()
    s = sender(broker, ordered=True)
    flying = s.send(outbound(0, key="a"))
    await ticks()
    behind, unkeyed = s.send(outbound(1, key="a")), s.send(outbound(2))
    just_started = sender(broker)
    fresh = just_started.send(outbound(3))
    s.abort()
    just_started.abort()
    results = await asyncio.gather(flying, behind, unkeyed, fresh, return_exceptions=True)
    assert [type(result) for result in results] == [OutcomeUnknown, NotSent, NotSent, NotSent]
    await ticks()
    assert s.unsent == 0
    assert len(asyncio.all_tasks()) == 1


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), calls=st.integers(1, 8), most=st.integers(1, 20), failure_rate=st.integers(0, 4))
def test_the_invariant_of_keys(seed: int, calls: int, most: int, failure_rate: int) -> None:
    """300 sends over 5 keys, calls of random length and with random failures."""
    asyncio.run(_check_keys(random.Random(seed), calls, most, failure_rate))


async def _check_keys(dice: random.Random, calls: int, most: int, failure_rate: int) -> None:
    stored: list[Outbound] = []

    async def send(address: Address, messages: Sequence[Outbound], /) -> None:
        errors: dict[int, Exception] = {}
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        for index, message in enumerate(messages):
            kind = dice.randrange(100)
            if kind < failure_rate:
                errors[index] = Rejected("no")
            else:
                stored.append(message)
                if kind < 2 * failure_rate:
                    errors[index] = OutcomeUnknown("stored, as it happens")
        if errors:
            raise BatchError(errors)

    s = Sender(Queue("orders"), Limits(messages=most, calls=calls), send, ordered=True)
    futures: dict[str, asyncio.Future[None]] = {}
    for number in range(300):
        key = f"k{dice.randrange(5)}" if dice.randrange(10) else None
        futures[str(number)] = s.send(outbound(number, key=key))
        if not dice.randrange(3):
            await asyncio.sleep(0)
    results = await asyncio.gather(*futures.values(), return_exceptions=True)
    outcomes = dict(zip(futures, results, strict=True))
    by_key: dict[str | None, list[int]] = {}
    for message in stored:
        by_key.setdefault(message.key, []).append(int(message.message_id))
    for key, numbers in by_key.items():
        assert len(set(numbers)) == len(numbers)
        assert key is None or numbers == sorted(numbers)
    kept = {message.message_id for message in stored}
    confirmed = {number for number, outcome in outcomes.items() if outcome is None}
    unknown = {number for number, outcome in outcomes.items() if isinstance(outcome, OutcomeUnknown)}
    assert confirmed <= kept
    assert kept - confirmed == unknown


async def test_two_calls_share_what_waits_and_flush_waits_for_both() -> None:
    go, sizes = asyncio.Event(), list[int]()

    async def double(numbers: list[int]) -> Sequence[int]:
        sizes.append(len(numbers))
        await go.wait()
        return [2 * number for number in numbers]

    coalescer = Coalescer(double, calls=2)
    answers = [coalescer.submit(number) for number in range(100)]
    await asyncio.sleep(0)
    answers += [coalescer.submit(number) for number in range(100, 110)]
    while len(sizes) < 2:
        await asyncio.sleep(0)
    assert sizes == [50, 50]
    go.set()
    await coalescer.flush()
    assert [answer.result() for answer in answers] == [2 * number for number in range(110)]
    assert sizes == [50, 50, 10]


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

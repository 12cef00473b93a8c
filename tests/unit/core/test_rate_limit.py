"""Rate limit: nothing begins too early, and what waits holds no lane and comes back in turn."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.core.punctuality import START, punctual
from unibus import (
    Bus,
    ConfigurationError,
    Message,
    Queue,
    UnsupportedCapability,
    constant,
    idempotent,
    rate_limit,
    retry,
)
from unibus.errors import MissingDependency
from unibus.idempotency.memory import MemoryStore
from unibus.idempotency.store import Claim
from unibus.testing import App, MovableClock, app


def at_rest(t: App) -> bool:
    """Whether no lane has anything in hand."""
    return not any(lane.held for consumer in t.bus.session.consumers for lane in consumer.lanes)


# --- in the process ----------------------------------------------------------------------------------------


async def test_over_the_limit_messages_wait_without_a_lane_and_begin_in_turn() -> None:
    bus, began = Bus("memory://"), list[tuple[float, int, int]]()

    @bus.consumer("orders", concurrency=2)
    @rate_limit(10, per=1.0)
    async def handle(number: int, message: Message[int]) -> None:
        began.append((t.clock.monotonic() - START, number, message.attempt))

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(35))
        await t.clock.advance(0)
        assert len(began) == 10
        assert at_rest(t)
        await t.settled()
        stats = bus.stats()["orders"]
    assert [(number, attempt) for _, number, attempt in began] == [(number, 1) for number in range(35)]
    assert punctual([time for time, _, _ in began], 10, 1.0)
    assert (stats.rate_limited, stats.handled, stats.retried) == (25, 35, 0)


@pytest.mark.parametrize(
    ("limit", "per", "burst"), [(1, 60.0, None), (3, 1.0, None), (10, 1.0, 1), (7, 0.5, 3), (2000, 1.0, 5)]
)
async def test_rates_of_all_kinds_are_kept(limit: int, per: float, burst: int | None) -> None:
    bus, began = Bus("memory://"), list[float]()

    @bus.consumer("orders")
    @rate_limit(limit, per=per, burst=burst)
    async def handle(number: int) -> None:
        began.append(t.clock.monotonic() - START)

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(20))
        await t.settled()
    assert len(began) == 20
    assert punctual(began, limit, per, burst)


async def test_what_comes_later_does_not_overtake_what_waits() -> None:
    bus, began = Bus("memory://"), list[int]()

    @bus.consumer("orders", prefetch=1000)
    @rate_limit(1, per=1.0)
    async def handle(number: int) -> None:
        began.append(number)

    async with app(bus) as t:
        for number in range(30):
            await t.send("orders", number)
            await t.clock.advance(0.25)
        await t.settled()
    assert began == list(range(30))


async def test_a_batch_is_let_in_as_far_as_the_limit_goes() -> None:
    bus, began = Bus("memory://"), list[tuple[float, int]]()

    @bus.consumer("orders", max_batch=8, max_wait=0, concurrency=1)
    @rate_limit(5, per=1.0)
    async def handle(messages: list[Message[int]]) -> None:
        began.extend((t.clock.monotonic() - START, message.data) for message in messages)

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(23))
        await t.clock.advance(0)
        assert [number for _, number in began] == [0, 1, 2, 3, 4]
        assert at_rest(t)
        await t.settled()
    assert [number for _, number in began] == list(range(23))
    assert punctual([time for time, _ in began], 5, 1.0)


async def test_of_a_batch_that_fails_only_what_was_let_in_has_failed() -> None:
    bus, attempts = Bus("memory://"), list[tuple[int, int]]()

    @bus.consumer("orders", max_batch=4, max_wait=0, concurrency=1)
    @rate_limit(2, per=10)
    @retry(on=ValueError, attempts=2, backoff=constant(100))
    async def handle(messages: list[Message[int]]) -> None:
        attempts.extend((message.data, message.attempt) for message in messages)
        if len(attempts) <= 2:
            raise ValueError

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(4))
        await t.settled()
        assert t.dead_letters("orders") == []
    assert sorted(attempts) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (3, 1)]


async def test_retries_count_and_waiting_for_a_turn_claims_no_key() -> None:
    bus, began, claimed = Bus("memory://"), list[float](), list[str]()

    class Keys(MemoryStore):
        async def claim(self, keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
            claimed.extend(keys)
            return await super().claim(keys, owner, lease)

    @bus.consumer("orders")
    @idempotent(key=lambda message: "one key for all", store=Keys(MovableClock()))
    @retry(on=ValueError, attempts=9, backoff=constant(0))
    @rate_limit(1, per=10)
    async def handle(number: int, message: Message[int]) -> None:
        began.append(t.clock.monotonic() - START)
        if message.attempt < 3:
            raise ValueError

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(2))
        await t.settled()
        assert bus.stats()["orders"].skipped == 1
    assert len(began) == 5, "one waits for its turn without the key, and the other's run is over before"
    assert punctual(began, 1, 10)
    assert len(claimed) == 5 + 1


async def test_the_order_of_a_key_is_kept() -> None:
    bus, began = Bus("memory://"), list[str]()
    queue = Queue("orders", ordering="key")

    @bus.consumer(queue)
    @rate_limit(2, per=1.0)
    async def handle(what: str) -> None:
        began.append(what)

    async with app(bus) as t:
        sent = [f"{key}{number}" for number in range(10) for key in "abc"]
        await bus.producer(queue).send_many(sent, key=lambda what: what[0])
        await t.settled()
    assert sorted(began) == sorted(sent)
    for key in "abc":
        assert [what for what in began if what[0] == key] == [f"{key}{number}" for number in range(10)]


@pytest.mark.parametrize(("name", "together"), [("partner", True), (None, False)])
async def test_handlers_that_give_one_name_share_the_limit(name: str | None, together: bool) -> None:
    bus, began = Bus("memory://"), list[float]()

    async def handle(number: int) -> None:
        began.append(t.clock.monotonic() - START)

    for queue in ("orders", "invoices"):

        @bus.consumer(queue)
        @rate_limit(4, per=1.0, name=name)
        async def handler(number: int) -> None:
            await handle(number)

    async with app(bus) as t:
        for queue in ("orders", "invoices"):
            await bus.producer(queue).send_many(range(8))
        await t.settled()
    assert sum(time < 0.01 for time in began) == (4 if together else 8)
    assert max(began) >= (2.99 if together else 0.99)


async def test_what_waits_is_renewed_and_what_waits_at_the_end_goes_back() -> None:
    began = list[int]()

    def limited(clock: MovableClock) -> Bus:
        bus = Bus("memory://limited-and-stopped?lease=5", clock=clock)

        @bus.consumer("orders")
        @rate_limit(1, per=20)
        async def handle(number: int) -> None:
            began.append(number)

        return bus

    clock = MovableClock()
    async with limited(clock) as bus:
        async with bus.consuming():
            await bus.producer("orders").send_many(range(5))
            await clock.advance(50)
            stats = bus.stats()["orders"]
            assert (began, stats.received, stats.lost) == ([0, 1, 2], 5, 0)
        assert (stats.given_back, stats.retried) == (2, 0)
        assert (await bus.depth("orders")).ready == 2
    assert clock.next_due() is None, "nobody is called any more"


async def test_waiting_for_turns_is_no_stall_and_a_handler_that_hangs_is_one() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @rate_limit(1, per=600)
    async def handle(number: int) -> None:
        if number == 2:
            await t.clock.sleep(1e6)

    async with app(bus) as t:
        await bus.producer("orders").send_many(range(4))
        await t.clock.advance(500)
        assert bus.health().ready, bus.health().reasons
        await t.clock.advance(700 + 100)
        assert not bus.health().ready, "the third hangs"


# --- said at start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: rate_limit(0), r"limit=0\): a whole number, at least 1"),
        (lambda: rate_limit(1.5), r"limit=1\.5"),  # type: ignore[arg-type]
        (lambda: rate_limit(True), r"limit=True"),
        (lambda: rate_limit(5, burst=0), r"burst=0"),
        (lambda: rate_limit(5, per=0), r"per=0\): from 0\.001 s to 31,622,400 s"),
        (lambda: rate_limit(5, per=-1), r"per=…"),
        (lambda: rate_limit(5, per=float("nan")), r"per=…"),
        (lambda: rate_limit(5, per=1e9), r"per=1000000000\.0"),
        (lambda: rate_limit(5, name=""), r"name=''"),
    ],
)
def test_numbers_that_cannot_be_meant(make: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"rate_limit\(.*{says}"):
        make()


async def test_a_prefetch_that_cannot_be_worked_off_while_it_may_be_held_is_refused() -> None:
    for limit, per, prefetch, says in (
        (1, 2.0, 51, "with a prefetch of 51 the last waits 102 s.*held 100 s; use prefetch=50 or less"),
        (1, 101.0, 1, "use a higher rate"),
    ):
        bus = Bus("memory://?hold=300")

        @bus.consumer("orders", prefetch=prefetch)
        @rate_limit(limit, per=per)
        async def handle(number: int) -> None: ...

        with pytest.raises(UnsupportedCapability, match=rf"a rate limit of one in {per:g} s: .*{says}"):
            await bus.__aenter__()
    bus = Bus("memory://?hold=300")

    @bus.consumer("orders", prefetch=50)
    @rate_limit(1, per=2.0)
    async def fits(number: int) -> None: ...

    async with bus:
        pass


async def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @rate_limit(5)
    async def handle(number: int) -> None: ...

    monkeypatch.setitem(sys.modules, "pyrate_limiter", None)
    with pytest.raises(MissingDependency, match=r'test_rate_limit\.py.*pip install "unibus\[resilience\]"'):
        async with bus.consuming():
            pass


async def test_an_unknown_store_is_named() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @rate_limit(5, store="rediss+nonsense://user:CANARY@host")
    async def handle(number: int) -> None: ...

    with pytest.raises(ConfigurationError, match=r"no store of rates for rediss\+nonsense://") as caught:
        async with bus.consuming():
            pass
    assert "CANARY" not in str(caught.value)


async def test_a_limit_of_each_worker_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @rate_limit(5)
    async def handle(number: int) -> None: ...

    monkeypatch.setenv("UNIBUS_WORKERS", "4")
    async with bus:
        pass
    assert "each of 4 workers keeps the @rate_limit of" in caplog.text

"""What `idempotent` does when things go wrong: a store that is down, a completion that fails, a twin in progress."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tests.unit.core.flaky_store import Flaky
from tests.unit.core.orders import Order
from unibus import Bus, Message, constant, idempotent, retry
from unibus.idempotency.memory import MemoryStore
from unibus.idempotency.store import Claim, Held
from unibus.testing import MovableClock, app

# --- a store that is down -----------------------------------------------------------------------------


async def test_while_the_store_is_down_messages_wait_and_no_attempt_is_spent() -> None:
    store = Flaky(MovableClock())
    store.down = True
    bus = Bus("memory://", idempotency_store=store)
    attempts: list[int] = []

    @bus.consumer("orders")
    @idempotent()
    async def handle(order: Order, message: Message[Order]) -> None:
        attempts.append(message.attempt)

    async with app(bus) as t:
        for number in range(5):
            await t.send("orders", Order(id=number))
        await t.clock.advance(120)
        assert attempts == []
        assert (await bus.depth("orders")).in_flight == 5
        store.down = False
        await t.settled()
        assert t.dead_letters("orders") == []
    assert attempts == [1] * 5


async def test_fail_open_goes_on_without_the_store() -> None:
    store = Flaky(MovableClock())
    store.down = True
    bus = Bus("memory://", idempotency_store=store)
    seen: list[int] = []

    @bus.consumer("orders")
    @idempotent(fail_open=True)
    async def handle(order: Order) -> None:
        seen.append(order.id)

    @bus.consumer("batches", max_wait=0)
    @idempotent(fail_open=True)
    async def handle_batch(messages: list[Message[Order]]) -> None:
        seen.extend(message.data.id for message in messages)

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.send("batches", Order(id=2))
        await t.settled()
    assert sorted(seen) == [1, 2]


async def test_a_store_that_is_down_is_asked_less_and_less_often() -> None:
    store = Flaky(MovableClock())
    store.down = True
    tries: list[float] = []
    claim = store.claim

    async def noting(keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        tries.append(t.clock.monotonic() - 1000.0)
        return await claim(keys, owner, lease)

    store.claim = noting  # type: ignore[method-assign]
    bus = Bus("memory://", idempotency_store=store)

    @bus.consumer("orders", max_wait=0)
    @idempotent()
    async def handle(messages: list[Message[Order]]) -> None: ...

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.clock.advance(250)
        store.down = False
        await t.settled()
        assert bus.stats()["orders"].handled == 1
    assert tries[:9] == [0, 1, 3, 7, 15, 31, 63, 123, 183]


# --- completions --------------------------------------------------------------------------------------


async def test_a_complete_that_fails_is_repeated_without_ack_or_second_run() -> None:
    store = Flaky(MovableClock())
    store.fail_completions = 3
    bus = Bus("memory://", idempotency_store=store)
    runs: list[int] = []

    @bus.consumer("orders")
    @idempotent()
    @retry(on=Exception, attempts=3, backoff=constant(0))
    async def handle(order: Order) -> None:
        runs.append(order.id)

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.clock.advance(2)
        assert (await bus.depth("orders")).in_flight == 1
        await t.settled()
        assert t.clock.monotonic() == 1007.0  # 1 + 2 + 4 s
    assert runs == [1]


async def test_a_complete_that_a_client_library_cuts_off_is_repeated() -> None:
    store = Flaky(MovableClock())
    complete, cut_off = store.complete, 1

    async def slipping(items: Sequence[Held], ttl: float) -> Sequence[bool]:
        nonlocal cut_off
        if cut_off:
            cut_off -= 1
            raise asyncio.CancelledError  # nobody asked for it
        return await complete(items, ttl)

    store.complete = slipping  # type: ignore[method-assign]
    bus = Bus("memory://", idempotency_store=store)

    @bus.consumer("orders")
    @idempotent()
    async def handle(order: Order) -> None: ...

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.clock.advance(1)
        assert (await bus.depth("orders")).in_flight == 0
    assert len(store._done) == 1


async def test_no_lane_waits_for_a_key_to_be_stored_as_done_and_nothing_is_acked_before() -> None:
    store = Flaky(MovableClock())
    store.fail_completions = 1
    bus = Bus("memory://", idempotency_store=store)
    runs: list[int] = []

    @bus.consumer("orders", concurrency=1)
    @idempotent()
    async def handle(order: Order) -> None:
        runs.append(order.id)

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.clock.quiet()
        await t.send("orders", Order(id=2))
        await t.clock.quiet()
        assert runs == [1, 2]
        assert (await bus.depth("orders")).in_flight == 2
        await t.clock.advance(1)
        assert (await bus.depth("orders")).in_flight == 0


async def test_what_cannot_be_stored_as_done_when_the_bus_ends_is_given_back() -> None:
    store = Flaky(MovableClock())
    store.fail_completions = 1000
    bus = Bus("memory://", idempotency_store=store)

    @bus.consumer("orders", concurrency=1)
    @idempotent()
    async def handle(order: Order) -> None: ...

    async with app(bus) as t:
        await t.send("orders", Order(id=1))
        await t.clock.quiet()
    assert bus.stats()["orders"].given_back == 1
    assert store._claimed, "nobody knows whether its effect is stored: its lease has to end"


# --- in progress elsewhere or beside ------------------------------------------------------------------


async def test_in_progress_elsewhere_waits_for_the_lease_and_spends_no_attempt() -> None:
    store = MemoryStore(MovableClock())
    bus = Bus("memory://", idempotency_store=store)
    runs: list[tuple[int, float]] = []

    @bus.consumer("orders", concurrency=1)
    @idempotent(key=lambda message: message.data.id)
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append((order.id, t.clock.monotonic()))
        assert message.attempt == 1

    async with app(bus) as t:
        store._clock = t.clock
        await store.claim(["orders:1"], "somebody else", 45)
        await t.send("orders", Order(id=1))
        await t.send("orders", Order(id=2))
        await t.settled()
    assert runs[0] == (2, 1000.0)  # no lane was held meanwhile
    assert runs[1][0] == 1
    assert runs[1][1] >= 1045.0


async def test_a_duplicate_beside_its_twin_waits_for_it_and_is_skipped() -> None:
    bus = Bus("memory://", idempotency_store="memory")
    go = asyncio.Event()
    runs: list[int] = []

    @bus.consumer("orders", concurrency=2)
    @idempotent(key=lambda message: message.data.id)
    async def handle(order: Order) -> None:
        runs.append(order.id)
        if order.id == 1:
            await go.wait()

    async with app(bus) as t:
        for number in (1, 1, 1, 2, 3):
            await t.send("orders", Order(id=number))
        await t.clock.quiet()
        assert runs == [1, 2, 3]  # the twins hold no lane
        go.set()
        await t.clock.quiet()
        assert bus.stats()["orders"].skipped == 2  # at once, and not when some wait is over
        assert t.clock.monotonic() == 1000.0
        await t.settled()
    assert runs == [1, 2, 3]


async def test_when_the_twin_fails_the_duplicate_runs() -> None:
    bus = Bus("memory://", idempotency_store="memory")
    go = asyncio.Event()
    runs: list[str] = []

    @bus.consumer("orders", concurrency=2)
    @idempotent(key=lambda message: message.data.id)
    @retry(on=ConnectionError, attempts=1)
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append(message.id)
        if len(runs) == 1:
            await go.wait()
            raise ConnectionError

    async with app(bus) as t:
        first, second = await t.send("orders", Order(id=1)), await t.send("orders", Order(id=1))
        await t.clock.quiet()
        go.set()
        await t.clock.quiet()
        assert runs == [first, second]
        await t.settled()
        assert len(t.dead_letters("orders")) == 1
        assert t.clock.monotonic() == 1000.0


async def test_waits_for_a_claim_elsewhere_grow_and_never_pass_its_lease() -> None:
    store = MemoryStore(MovableClock())
    tries: list[float] = []
    claim = store.claim

    async def noting(keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        if owner != "somebody else":
            tries.append(t.clock.monotonic() - 1000.0)
        return await claim(keys, owner, lease)

    store.claim = noting  # type: ignore[method-assign]
    bus = Bus("memory://", idempotency_store=store)

    @bus.consumer("orders")
    @idempotent(key=lambda message: message.data.id)
    async def handle(order: Order) -> None: ...

    async with app(bus) as t:
        store._clock = t.clock
        await store.claim(["orders:1"], "somebody else", 20)
        await t.send("orders", Order(id=1))
        await t.settled()
    assert tries == [0, 1, 3, 7, 15, 20]


async def test_a_batch_frees_the_keys_of_what_failed_and_of_what_was_marked() -> None:
    store = MemoryStore(MovableClock())
    bus = Bus("memory://", idempotency_store=store)
    runs: list[list[int]] = []

    @bus.consumer("orders", max_wait=1, concurrency=1)
    @idempotent(key=lambda message: message.data.id)
    @retry(on=ConnectionError, attempts=3, backoff=constant(5))
    async def handle(messages: list[Message[Order]]) -> None:
        runs.append([message.data.id for message in messages])
        if len(runs) == 1:
            raise ConnectionError
        for message in messages:
            if message.data.id == 1 and len(runs) == 2:
                message.retry(after=10)

    async with app(bus) as t:
        for number in (1, 2, 3):
            await t.send("orders", Order(id=number))
        await t.settled()
        assert t.dead_letters("orders") == []
        assert t.clock.monotonic() < 1030.0  # no claim had to end by itself
        assert bus.stats()["orders"].skipped == 0
    assert runs == [[1, 2, 3], [1, 2, 3], [1]]

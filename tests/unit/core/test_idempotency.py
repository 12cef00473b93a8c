"""The store's protocol, the claims of a process, and what `idempotent` does when things go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from pydantic import BaseModel

from unibus import Bus, Message, constant, idempotent, retry
from unibus.coalesce import Coalescer
from unibus.idempotency.claims import Busy, Claims
from unibus.idempotency.memory import MemoryStore
from unibus.idempotency.store import Claim, Done, Held, InProgress, New
from unibus.testing import MovableClock, app


class Order(BaseModel):
    id: int


class Flaky(MemoryStore):
    """A store that is down for a while."""

    down = False
    fail_completions = 0
    renewals = 0

    async def claim(self, keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        if self.down:
            raise ConnectionError("the store is down")
        return await super().claim(keys, owner, lease)

    async def complete(self, items: Sequence[Held], ttl: float) -> Sequence[bool]:
        if self.fail_completions:
            self.fail_completions -= 1
            raise ConnectionError("the store is down")
        return await super().complete(items, ttl)

    async def renew(self, items: Sequence[Held], lease: float) -> Sequence[bool]:
        self.renewals += 1
        return await super().renew(items, lease)


async def test_a_key_is_new_in_progress_then_done_until_its_ttl() -> None:
    clock = MovableClock()
    store = MemoryStore(clock)
    (new,) = await store.claim(["k"], "a", 60)
    assert isinstance(new, New)
    (progress,) = await store.claim(["k"], "b", 60)
    assert progress == InProgress("a", 60.0)
    assert await store.complete([Held("k", "a", new.fence)], 100) == [True]
    assert await store.claim(["k"], "b", 60) == [Done()]
    await clock.advance(100)
    assert isinstance((await store.claim(["k"], "b", 60))[0], New)


async def test_a_lapsed_lease_lets_another_in_with_a_higher_fence_and_the_first_cannot_speak() -> None:
    clock = MovableClock()
    store = MemoryStore(clock)
    (first,) = await store.claim(["k"], "a", 60)
    await clock.advance(60)
    (second,) = await store.claim(["k"], "b", 60)
    assert isinstance(first, New)
    assert isinstance(second, New)
    assert second.fence > first.fence
    stale = [Held("k", "a", first.fence)]
    assert await store.complete(stale, 10) == [False]
    assert await store.release(stale) == [False]
    assert await store.renew(stale, 10) == [False]
    assert await store.complete([Held("k", "b", second.fence)], 10) == [True]


async def test_release_frees_and_renew_extends() -> None:
    clock = MovableClock()
    store = MemoryStore(clock)
    (claim,) = await store.claim(["k"], "a", 60)
    assert isinstance(claim, New)
    held = [Held("k", "a", claim.fence)]
    await clock.advance(50)
    assert await store.renew(held, 60) == [True]
    await clock.advance(50)
    assert isinstance((await store.claim(["k"], "b", 60))[0], InProgress)
    assert await store.release(held) == [True]
    assert isinstance((await store.claim(["k"], "b", 60))[0], New)


async def test_the_store_is_bounded_and_forgets_the_longest_done() -> None:
    store = MemoryStore(MovableClock(), max_keys=10)
    for number in range(25):
        (claim,) = await store.claim([str(number)], "a", 60)
        assert isinstance(claim, New)
        await store.complete([Held(str(number), "a", claim.fence)], 1000)
    assert await store.claim(["24"], "a", 60) == [Done()]
    assert isinstance((await store.claim(["14"], "a", 60))[0], New)


async def test_concurrent_claims_of_one_process_are_one_call_and_one_wins() -> None:
    store = MemoryStore(MovableClock())
    calls: list[int] = []
    claim = store.claim

    async def counting(keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        calls.append(len(keys))
        return await claim(keys, owner, lease)

    store.claim = counting  # type: ignore[method-assign]
    claims = Claims(store, MovableClock(), "me", 60, 1000)
    answers = await asyncio.gather(*[claims.claim(key) for key in ("a", "b", "a", "c", "a")])
    assert calls == [3]
    assert [type(answer) for answer in answers] == [New, New, Busy, New, Busy]
    busy = answers[2]
    assert isinstance(busy, Busy)
    assert not busy.freed.done()
    done = claims.complete("a")
    assert done is not None
    await done
    assert busy.freed.done()
    assert isinstance(await claims.claim("a"), Done)
    await claims.close()


async def claimed(claims: Claims, key: str) -> Claim | Busy:
    """As the middleware does it."""
    answer = claims.claim(key)
    try:
        return await answer
    except asyncio.CancelledError:
        claims.give_up(key, answer)
        raise


async def test_a_claim_cancelled_before_its_answer_is_given_back() -> None:
    store = MemoryStore(MovableClock())
    claims = Claims(store, MovableClock(), "me", 60, 1000)
    waiting = asyncio.ensure_future(claimed(claims, "k"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await claims.close()
    assert isinstance((await store.claim(["k"], "other", 60))[0], New)


async def test_a_claim_cancelled_in_the_moment_of_its_answer_is_given_back() -> None:
    store = MemoryStore(MovableClock())
    claim = store.claim

    async def answering(keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        asyncio.get_running_loop().call_soon(waiting.cancel)
        return await claim(keys, owner, lease)

    store.claim = answering  # type: ignore[method-assign]
    claims = Claims(store, MovableClock(), "me", 60, 1000)
    waiting = asyncio.ensure_future(claimed(claims, "k"))
    with pytest.raises(asyncio.CancelledError):
        await waiting
    store.claim = claim  # type: ignore[method-assign]
    await claims.close()
    assert isinstance((await store.claim(["k"], "other", 60))[0], New)


async def test_claims_are_renewed_while_held() -> None:
    clock = MovableClock()
    store = Flaky(clock)
    claims = Claims(store, clock, "me", 60, 1000)
    assert isinstance(await claims.claim("k"), New)
    await clock.advance(300)
    assert isinstance((await store.claim(["k"], "other", 60))[0], InProgress)
    assert store.renewals >= 14
    claims.complete("k")
    await clock.advance(100)
    assert clock.next_due() is None  # nothing held, no timer
    await claims.close()


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


async def test_a_batch_claims_all_or_none() -> None:
    clock = MovableClock()
    store = MemoryStore(clock)
    claim = store.claim

    async def failing(keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        if "bad" in keys:
            raise ConnectionError("for this one")
        return await claim(keys, owner, lease)

    store.claim = failing  # type: ignore[method-assign]
    claims = Claims(store, clock, "me", 60, 1000)
    first = asyncio.ensure_future(claims.claim_all(["a", "b"]))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(claims.claim_all(["c", "bad"]))  # another call of the store
    assert [type(answer) for answer in await first] == [New, New]
    with pytest.raises(ConnectionError):
        await second
    with pytest.raises(ConnectionError):
        await asyncio.gather(claims.claim("d"), claims.claim("bad"))
    await claims.close()
    assert isinstance((await store.claim(["c"], "other", 60))[0], New)


async def test_what_was_claimed_before_another_call_failed_is_given_back() -> None:
    clock = MovableClock()
    store = MemoryStore(clock)
    claim = store.claim

    async def one_at_a_time(keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        if keys[0] == "bad":
            raise ConnectionError("for this one")
        return await claim(keys, owner, lease)

    store.claim = one_at_a_time  # type: ignore[method-assign]
    claims = Claims(store, clock, "me", 60, 1000)
    claims._claims._most = 1
    with pytest.raises(ConnectionError):
        await claims.claim_all(["a", "bad", "c"])
    await claims.close()
    for key in ("a", "c"):
        assert isinstance((await store.claim([key], "other", 60))[0], New)


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


async def test_a_release_that_fails_is_only_said(caplog: pytest.LogCaptureFixture) -> None:
    class NoRelease(MemoryStore):
        async def release(self, items: Sequence[Held]) -> Sequence[bool]:
            raise ConnectionError("the store is down")

    claims = Claims(NoRelease(MovableClock()), MovableClock(), "me", 60, 1000)
    await claims.claim("k")
    waiting = await claims.claim("k")
    assert isinstance(waiting, Busy)
    claims.release("k")
    claims.release("never claimed")
    await waiting.freed
    await claims.close()
    assert "'k' could not be released" in caplog.text
    assert "never claimed" not in caplog.text


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

"""The protocol of a store of keys, and the claims of a process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.unit.core.flaky_store import Flaky
from unibus.idempotency.claims import Busy, Claims
from unibus.idempotency.memory import MemoryStore
from unibus.idempotency.store import Claim, Done, Held, InProgress, New
from unibus.testing import MovableClock

# --- the store ----------------------------------------------------------------------------------------


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


# --- claims -------------------------------------------------------------------------------------------


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

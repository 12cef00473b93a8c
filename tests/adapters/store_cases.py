"""What every idempotency store has to do: the same cases for each, by the fixture `store` of who runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from unibus.idempotency.store import Done, Held, IdempotencyStore, InProgress, New

Name = Callable[[str], str]


async def claimed(store: IdempotencyStore, key: str, owner: str, lease: float = 60) -> Held:
    (claim,) = await store.claim([key], owner, lease)
    assert isinstance(claim, New)
    return Held(key, owner, claim.fence)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


class StoreCases:
    async def test_a_key_is_claimed_once_and_then_done(self, store: IdempotencyStore, name: Name) -> None:
        key = name("order/7 {x}")
        held = await claimed(store, key, "a")
        (other,) = await store.claim([key], "b", 60)
        assert isinstance(other, InProgress)
        assert other.owner == "a"
        assert 50 < other.remaining <= 60
        assert await store.complete([held], 60) == [True]
        assert await store.claim([key], "b", 60) == [Done()]
        assert await store.complete([held], 60) == [False], "it is done already"

    async def test_many_keys_are_one_call_with_an_answer_for_each(self, store: IdempotencyStore, name: Name) -> None:
        taken, done = await claimed(store, name("taken"), "a"), await claimed(store, name("done"), "a")
        await store.complete([done], 60)
        keys = [name("taken"), name("done"), *[name(f"new.{n}") for n in range(200)]]
        answers = await store.claim(keys, "b", 60)
        assert [type(answer) for answer in answers] == [InProgress, Done, *[New] * 200]
        held = [Held(key, "b", a.fence) for key, a in zip(keys[2:], answers[2:], strict=True) if isinstance(a, New)]
        assert await store.renew([taken, *held[:2]], 60) == [True, True, True]
        assert await store.release([Held(taken.key, "b", taken.fence), *held[:2]]) == [False, True, True]
        assert await store.complete([*held, taken], 60) == [False, False, *[True] * 198, True]
        assert await store.claim([], "b", 60) == []

    async def test_a_released_key_is_free_again_with_a_higher_fence(self, store: IdempotencyStore, name: Name) -> None:
        first = await claimed(store, name("k"), "a")
        assert await store.release([first]) == [True]
        second = await claimed(store, name("k"), "a")
        assert second.fence > first.fence
        assert await store.complete([first], 60) == [False], "an old fence speaks for nobody"
        assert await store.complete([second], 60) == [True]

    async def test_an_owner_who_lacks_the_answer_claims_again(self, store: IdempotencyStore, name: Name) -> None:
        lost = await claimed(store, name("k"), "a")
        again = await claimed(store, name("k"), "a")
        assert again.fence > lost.fence
        assert isinstance((await store.claim([name("k")], "b", 60))[0], InProgress)
        assert await store.complete([again], 60) == [True]

    async def test_a_claim_lapses_and_its_owner_may_still_speak_until_another_has_taken_it(
        self, store: IdempotencyStore, name: Name
    ) -> None:
        late, lost = await claimed(store, name("late"), "a", 0.05), await claimed(store, name("lost"), "a", 0.05)
        taken = list[Held]()

        async def lapsed() -> bool:
            (claim,) = await store.claim([name("lost")], "b", 60)
            taken.extend([Held(name("lost"), "b", claim.fence)] if isinstance(claim, New) else [])
            return bool(taken)

        await until(lapsed)
        assert taken[0].fence > lost.fence
        assert await store.complete([late, lost], 60) == [True, False]
        assert await store.renew([lost, taken[0]], 60) == [False, True]

    async def test_a_renewed_claim_does_not_lapse(self, store: IdempotencyStore, name: Name) -> None:
        held = await claimed(store, name("k"), "a", 0.3)
        for _ in range(8):
            await asyncio.sleep(0.1)  # the lease itself
            assert await store.renew([held], 0.3) == [True]
        assert isinstance((await store.claim([name("k")], "b", 60))[0], InProgress)

    async def test_what_is_done_is_forgotten_when_its_time_is_over(self, store: IdempotencyStore, name: Name) -> None:
        await store.complete([await claimed(store, name("k"), "a")], 0.05)

        async def free() -> bool:
            return isinstance((await store.claim([name("k")], "b", 60))[0], New)

        await until(free)

    async def test_of_many_who_claim_at_once_one_wins(self, store: IdempotencyStore, name: Name) -> None:
        claims = await asyncio.gather(*[store.claim([name("k")], f"owner-{n}", 60) for n in range(50)])
        assert sum(isinstance(claim, New) for (claim,) in claims) == 1

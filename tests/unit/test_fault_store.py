"""The store that the processes of the fault tests share keeps the protocol, as two of them see it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults.sqlite_store import SqliteStore
from unibus.idempotency.store import Done, Held, InProgress, New


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    time = [1000.0]
    monkeypatch.setattr("tests.faults.sqlite_store.time.monotonic", lambda: time[0])
    return time


@pytest_asyncio.fixture
async def stores(tmp_path: Path, now: list[float]) -> AsyncIterator[tuple[SqliteStore, SqliteStore]]:
    both = SqliteStore(tmp_path / "claims.sqlite"), SqliteStore(tmp_path / "claims.sqlite")
    for store in both:
        await store.open()
    yield both
    for store in both:
        await store.close()


async def claimed(store: SqliteStore, owner: str, key: str = "k", lease: float = 5.0) -> Held:
    (claim,) = await store.claim([key], owner, lease)
    assert isinstance(claim, New)
    return Held(key, owner, claim.fence)


async def test_a_claim_is_seen_by_the_other(stores: tuple[SqliteStore, SqliteStore], now: list[float]) -> None:
    one, other = stores
    await claimed(one, "one")
    now[0] += 2.0
    assert await other.claim(["k", "free"], "other", 5.0) == [InProgress("one", 3.0), New(2)]


async def test_an_owner_who_lacks_the_answer_claims_again(stores: tuple[SqliteStore, SqliteStore]) -> None:
    lost, again = await claimed(stores[0], "one"), await claimed(stores[0], "one")
    assert again.fence > lost.fence


async def test_done_is_done_for_all_until_its_time_is_over(
    stores: tuple[SqliteStore, SqliteStore], now: list[float]
) -> None:
    one, other = stores
    assert await one.complete([await claimed(one, "one")], ttl=60.0) == [True]
    assert await other.claim(["k"], "other", 5.0) == [Done()]
    now[0] += 61.0
    await claimed(other, "other")


async def test_a_released_key_is_free(stores: tuple[SqliteStore, SqliteStore]) -> None:
    one, other = stores
    assert await one.release([await claimed(one, "one")]) == [True]
    await claimed(other, "other")


async def test_who_let_the_lease_lapse_speaks_for_the_key_until_another_has_it(
    stores: tuple[SqliteStore, SqliteStore], now: list[float]
) -> None:
    one, other = stores
    held = await claimed(one, "one")
    now[0] += 6.0
    assert await one.renew([held], 5.0) == [True]
    now[0] += 6.0
    later = await claimed(other, "other")
    assert later.fence > held.fence
    assert await one.renew([held], 5.0) == [False]
    assert await one.complete([held], 60.0) == [False]
    assert await one.release([held]) == [False]
    assert await other.complete([later], 60.0) == [True]


async def test_a_fence_is_never_used_again(stores: tuple[SqliteStore, SqliteStore]) -> None:
    one, other = stores
    first = await claimed(one, "one")
    await one.release([first])
    assert (await claimed(other, "one")).fence > first.fence


async def test_a_key_that_is_done_is_nobodys(stores: tuple[SqliteStore, SqliteStore]) -> None:
    one, _ = stores
    held = await claimed(one, "one")
    await one.complete([held], 60.0)
    assert await one.release([held]) == [False]
    assert await one.renew([held], 5.0) == [False]

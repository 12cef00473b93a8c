"""Idempotent handling: each key's effect happens once, and never zero times."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from unibus.clock import SystemClock
from unibus.idempotency.memory import MemoryStore
from unibus.idempotency.store import Claim, Held
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.idempotent import idempotent
from unibus.middleware.retry import retry
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import again_at_once, difference
from unibus.testing.contract.needs import DELAY, GROUPS, RELIABLE_QUEUES, RELIABLE_TOPICS, needs
from unibus.testing.harness import Harness


class FlakyStore:
    """A store that fails when told: `failing` names the methods that do."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.failing: set[str] = set()
        self.calls: Counter[str] = Counter()

    def _note(self, method: str) -> None:
        self.calls[method] += 1
        if method in self.failing:
            raise ConnectionError("the store is down, in a test")

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def claim(self, keys: Sequence[str], owner: str, lease: float) -> Sequence[Claim]:
        self._note("claim")
        return await self._store.claim(keys, owner, lease)

    async def complete(self, items: Sequence[Held], ttl: float) -> Sequence[bool]:
        self._note("complete")
        return await self._store.complete(items, ttl)

    async def release(self, items: Sequence[Held]) -> Sequence[bool]:
        self._note("release")
        return await self._store.release(items)

    async def renew(self, items: Sequence[Held], lease: float) -> Sequence[bool]:
        self._note("renew")
        return await self._store.renew(items, lease)


def new_store(harness: Harness) -> MemoryStore:
    return MemoryStore(harness.clock or SystemClock())


def payload(message: Message[Any]) -> object:
    return message.data


@needs(RELIABLE_QUEUES)
class Idempotence(Cases):
    async def test_duplicates_have_one_effect(self, harness: Harness) -> None:
        bus, name, effects = harness.bus(), harness.name("orders"), list[int]()

        @bus.consumer(name, concurrency=20)
        @idempotent(key=payload, store="memory")
        @again_at_once
        async def handle(number: int) -> None:
            await asyncio.sleep(0)
            effects.append(number)

        async with harness.running(bus):
            await bus.producer(name).send_many([number % 100 for number in range(300)])
            await harness.until(lambda: bus.stats()[name].skipped >= 200, "duplicates are passed over")
            await harness.silent()
            assert bus.stats()[name].skipped == 200
        assert not difference(effects, range(100))

    async def test_the_message_id_is_the_key_by_default(self, harness: Harness) -> None:
        bus, name, effects = harness.bus(), harness.name("orders"), list[int]()

        @bus.consumer(name)
        @idempotent(store="memory")
        @again_at_once
        async def handle(number: int) -> None:
            effects.append(number)

        async with harness.running(bus):
            for number, id_ in enumerate(["a", "a", "b"]):
                await bus.producer(name).send(number, id=id_)
            await harness.until(lambda: bus.stats()[name].skipped >= 1 and len(effects) >= 2, "all are handled")
        assert len(effects) == 2
        assert 2 in effects

    async def test_claims_of_two_processes_at_once_have_one_effect(self, harness: Harness) -> None:
        name, store, effects = harness.name("orders"), new_store(harness), list[int]()
        buses = [harness.bus(idempotency_store=store) for _ in range(3)]
        for bus in buses:

            @bus.consumer(name, concurrency=10, prefetch=20)
            @idempotent(key=payload)
            @again_at_once
            async def handle(number: int) -> None:
                await harness.sleep(0.05)
                effects.append(number)

        async with harness.running(*buses):
            await buses[0].producer(name).send_many([number % 30 for number in range(120)])
            await harness.until(
                lambda: sum(bus.stats()[name].skipped + bus.stats()[name].handled for bus in buses) >= 120,
                "all are done",
            )
        assert not difference(effects, range(30))

    @pytest.mark.parametrize("wait", [0.0, 0.5, pytest.param(1.2, id="delayed")])
    async def test_over_retry_the_effect_happens_once_and_never_zero_times(self, harness: Harness, wait: float) -> None:
        if wait >= 1 and not DELAY.met(harness):
            pytest.skip(f"needs {DELAY.name}")
        bus, name, effects, attempts = harness.bus(), harness.name("orders"), list[int](), Counter[int]()

        @bus.consumer(name)
        @retry(on=ConnectionError, attempts=3, backoff=constant(wait))
        @idempotent(key=payload, store="memory")
        async def handle(number: int, message: Message[int]) -> None:
            attempts[number] += 1
            if message.attempt <= number % 3:
                raise ConnectionError
            effects.append(number)

        async with harness.running(bus):
            await bus.producer(name).send_many([*range(30), *range(30)])
            await harness.until(
                lambda: bus.stats()[name].skipped + len(effects) >= 60, "each is handled once and skipped once"
            )
            await harness.silent()
        assert not difference(effects, range(30))

    async def test_a_final_failure_frees_the_key(self, harness: Harness) -> None:
        bus, name, effects, broken = harness.bus(), harness.name("orders"), list[int](), [True]

        @bus.consumer(name)
        @idempotent(key=payload, store="memory")
        @retry(on=ConnectionError, attempts=2, backoff=constant(0))
        async def handle(number: int) -> None:
            if broken[0]:
                raise ConnectionError
            effects.append(number)

        async with harness.running(bus):
            await bus.producer(name).send(1)
            await harness.until(lambda: bus.stats()[name].dead_lettered == 1, "it is a dead letter")
            broken[0] = False
            await bus.producer(name).send(1)
            await harness.until(lambda: effects == [1], "the next one with its key is handled")

    async def test_the_claim_of_a_killed_process_ends(self, harness: Harness) -> None:
        name, store, runs = harness.name("orders"), new_store(harness), list[str]()
        first, second = harness.bus(idempotency_store=store), harness.bus(idempotency_store=store)

        def consume(bus: Any, who: str) -> None:
            @bus.consumer(name)  # type: ignore[untyped-decorator]
            @idempotent(lease=2)
            @again_at_once
            async def handle(message: Message[int]) -> None:
                runs.append(f"{who}{message.attempt}")
                if who == "first":
                    await asyncio.Event().wait()

        consume(first, "first")
        consume(second, "second")
        async with harness.running(first):
            await first.producer(name).send(1)
            await harness.until(lambda: bool(runs), "the first one runs")
            await harness.abandon(first)
        async with harness.running(second):
            await harness.until(lambda: len(runs) >= 2, "the second one takes over when the claim has ended")
            await harness.silent()
        assert runs == ["first1", "second1"], "and no attempt was spent"

    async def test_while_the_store_is_down_nothing_is_handled_and_no_attempt_is_spent(self, harness: Harness) -> None:
        name, store, attempts = harness.name("orders"), FlakyStore(new_store(harness)), list[int]()
        bus = harness.bus(idempotency_store=store)
        store.failing = {"claim"}

        @bus.consumer(name)
        @idempotent()
        @again_at_once
        async def handle(message: Message[int]) -> None:
            attempts.append(message.attempt)

        async with harness.running(bus):
            await bus.producer(name).send_many(range(10))
            await harness.until(lambda: store.calls["claim"] >= 4, "it is asked again")
            assert not attempts
            assert bus.stats()[name].dead_lettered == 0
            store.failing = set()
            await harness.until(lambda: len(attempts) >= 10, "all are handled")
        assert attempts == [1] * 10

    async def test_an_effect_that_cannot_be_noted_is_noted_later_and_happens_once(self, harness: Harness) -> None:
        name, store, effects = harness.name("orders"), FlakyStore(new_store(harness)), list[int]()
        bus = harness.bus(idempotency_store=store)
        store.failing = {"complete"}

        @bus.consumer(name)
        @idempotent(key=payload)
        @again_at_once
        async def handle(number: int) -> None:
            effects.append(number)

        async with harness.running(bus):
            await bus.producer(name).send(1)
            await harness.until(lambda: store.calls["complete"] >= 3, "it is tried again")
            assert bus.stats()[name].dead_lettered == bus.stats()[name].retried == 0
            store.failing = set()
            await bus.producer(name).send(1)
            await harness.until(lambda: bus.stats()[name].skipped >= 1, "the duplicate is passed over")
        assert effects == [1]

    @needs(GROUPS, RELIABLE_TOPICS)
    async def test_keys_are_kept_apart_by_consumer(self, harness: Harness) -> None:
        bus, topic, effects = harness.bus(), harness.name("news"), list[str]()

        @bus.subscriber(topic, group=harness.name("a"))
        @idempotent(store="memory")
        @again_at_once
        async def handle_a(number: int) -> None:
            effects.append(f"a{number}")

        @bus.subscriber(topic, group=harness.name("b"))
        @idempotent(store="memory")
        @again_at_once
        async def handle_b(number: int) -> None:
            effects.append(f"b{number}")

        async with harness.running(bus):
            await bus.publisher(topic).publish(1)
            await harness.until(lambda: len(effects) >= 2, "both groups handle it")
        assert sorted(effects) == ["a1", "b1"]

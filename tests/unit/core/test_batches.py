"""Handlers of batches: what makes a batch, and what becomes of single ones in it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.unit.core.orders import Order
from unibus import BatchHandler, Bus, Message, constant, idempotent, retry, timeout, use
from unibus.testing import app


async def test_batches_by_count_and_by_time() -> None:
    bus = Bus("memory://")
    batches: list[list[int]] = []

    @bus.consumer("orders", max_batch=4, max_wait=5, concurrency=1)
    async def handle(messages: list[Message[Order]]) -> None:
        batches.append([message.data.id for message in messages])

    async with app(bus) as t:
        await bus.producer("orders").send_many([Order(id=number) for number in range(10)])
        await t.settled()
        assert bus.stats()["orders"].handled == 10
        assert t.clock.monotonic() == 1005.0
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_single_ones_of_a_batch_are_retried_and_rejected() -> None:
    bus = Bus("memory://")
    runs: list[tuple[int, int]] = []

    @bus.consumer("orders", max_batch=10, max_wait=1)
    @retry(on=ValueError, attempts=2, backoff=constant(7))
    async def handle(messages: list[Message[Order]]) -> None:
        for each in messages:
            runs.append((each.data.id, each.attempt))
            if each.data.id == 1 and each.attempt == 1:
                each.retry(after=60)
            if each.data.id == 2:
                each.reject("bad")
            if each.data.id == 3:
                each.retry()

    async with app(bus) as t:
        await bus.producer("orders").send_many([Order(id=number) for number in range(4)])
        await t.settled()
        reasons = [sent.dead_letter.reason for sent in t.dead_letters("orders") if sent.dead_letter]
    assert sorted(reasons) == ["bad", "failed 2 times: Retry: retry"]
    assert sorted(runs) == [(0, 1), (1, 1), (1, 2), (2, 1), (3, 1), (3, 2)]


async def test_an_exception_is_the_policy_for_each_of_the_batch() -> None:
    bus = Bus("memory://")
    runs: list[int] = []

    @bus.consumer("orders", max_batch=10, max_wait=1)
    @retry(on=ValueError, attempts=2, backoff=constant(7))
    async def handle(messages: list[Message[Order]]) -> None:
        runs.append(len(messages))
        if messages[0].attempt == 1:
            raise ValueError

    async with app(bus) as t:
        await bus.producer("orders").send_many([Order(id=number) for number in range(4)])
        await t.settled()
        assert bus.stats()["orders"].handled == 4
    assert runs == [4, 4]


async def test_a_batch_with_an_undecodable_message_and_duplicates() -> None:
    bus = Bus("memory://")
    effects: list[int] = []

    @bus.consumer("orders", max_batch=10, max_wait=1)
    @idempotent(key=lambda message: message.data.id, store="memory")
    async def handle(messages: list[Message[Order]]) -> None:
        effects.extend(message.data.id for message in messages)

    async with app(bus) as t:
        await t.send("orders", {"id": "x"})
        for number in (1, 2, 1, 2, 3):
            await t.send("orders", Order(id=number))
        await t.settled()
        (dead,) = t.dead_letters("orders")
        assert dead.body == b'{"id":"x"}'
        assert bus.stats()["orders"].skipped == 2
    assert sorted(effects) == [1, 2, 3]


async def test_own_middlewares_and_timeouts_of_batches() -> None:
    log: list[int] = []

    def noting(inner: BatchHandler) -> BatchHandler:
        async def run(messages: Sequence[Message[Any]]) -> object:
            log.append(len(messages))
            return await inner(messages)

        return run

    bus = Bus("memory://")

    @bus.consumer("orders", max_batch=3, max_wait=1)
    @retry(on=TimeoutError, attempts=1)
    @timeout(5)
    @use(noting)
    async def handle(messages: list[Message[Order]]) -> None:
        await asyncio.Event().wait()

    async with app(bus) as t:
        await bus.producer("orders").send_many([Order(id=number) for number in range(3)])
        await t.settled()
        assert len(t.dead_letters("orders")) == 3
    assert log == [3]

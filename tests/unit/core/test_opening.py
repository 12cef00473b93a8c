"""Opening a bus: who creates what, which configuration holds, what a failure leaves."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.unit.core.orders import Order, handled
from unibus import Bus, Queue, TopicSubscription
from unibus.errors import DestinationNotFound
from unibus.testing import app


async def test_producers_verify_and_consumers_create() -> None:
    bus = Bus("memory://")
    bus.producer("nowhere")
    with pytest.raises(DestinationNotFound, match="nowhere"):
        async with bus:
            pass
    late = Bus("memory://")
    async with late:
        with pytest.raises(DestinationNotFound, match="elsewhere"):
            await late.producer("elsewhere").send(1)
        await late.publisher("anything").publish(1)  # to nobody: no error


async def test_declare_verify_insists_and_none_asks_nothing() -> None:
    strict = Bus("memory://who-creates", declare="verify")
    handled(strict)
    with pytest.raises(DestinationNotFound):
        async with strict:
            pass
    creating = Bus("memory://who-creates")
    handled(creating)
    async with creating:
        async with strict:
            await strict.producer("orders").send(Order(id=1))
        async with Bus("memory://who-creates", declare="none") as careless:
            await careless.producer("orders").send(Order(id=1))
            with pytest.raises(DestinationNotFound):
                await careless.producer("nowhere").send(Order(id=1))
        assert (await creating.depth("orders")).ready == 2


async def test_configuration_overrides_the_decorator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unibus.toml").write_text(
        'url = "memory://"\nidempotency_store = "memory"\n[consumers.orders]\nconcurrency = 3\nretry_attempts = 1\n'
        'timeout = 5\n[consumers.typo]\nprefetch = 1\n[queues.orders]\nordering = "key"\n'
    )
    monkeypatch.chdir(tmp_path)
    bus = Bus()
    handled(bus, concurrency=50)
    async with bus.consuming():
        (plan,) = bus.session.plans
        assert (plan.concurrency, plan.timeout, plan.retry.policies[0].attempts, plan.ordered) == (3, 5.0, 1, True)


async def test_a_configured_name_that_nobody_has_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "unibus.toml").write_text("[consumers.typo]\nprefetch = 1\n")
    monkeypatch.chdir(tmp_path)
    async with Bus("memory://"):
        pass
    assert "typo" in caplog.text


async def test_a_bus_can_be_opened_again_and_private_memory_is_gone() -> None:
    bus = Bus("memory://")
    seen = handled(bus)
    async with bus:
        await bus.producer("orders").send(Order(id=1))
    async with app(bus) as t:
        await t.send("orders", Order(id=2))
        await t.settled()
    assert seen == [2]


async def test_an_open_bus_sends_and_does_not_consume() -> None:
    bus = Bus("memory://")
    seen = handled(bus)
    async with bus:
        await bus.producer("orders").send(Order(id=1))
        await asyncio.sleep(0.01)
        assert seen == []
        async with bus.consuming():
            while not seen:
                await asyncio.sleep(0)
    assert seen == [1]


async def test_a_lifespan_that_fails_closes_everything() -> None:
    async def lifespan() -> Any:
        raise OSError("no database")
        yield

    lifespan.__annotations__["return"] = "collections.abc.AsyncIterator[int]"
    lifespan.__globals__["collections"] = __import__("collections.abc")
    bus = Bus("memory://", lifespan=lifespan)
    handled(bus)
    with pytest.raises(OSError, match="no database"):
        async with bus.consuming():
            pass
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_depth_of_a_group() -> None:
    bus = Bus("memory://")

    @bus.subscriber("order.*", group="audit")
    async def handle(order: Order) -> None: ...

    async with bus:
        await bus.publisher("order.created").publish(Order(id=1))
        assert (await bus.depth(TopicSubscription(("order.*",), "audit"))).ready == 1
        assert (await bus.depth(Queue("unibus.group.audit.dlq"))).ready == 0

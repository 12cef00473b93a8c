"""What is lost: a settlement, a message in hand, a lane. Nothing else goes with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.core.orders import Order
from tests.unit.core.recount import opened, settled
from unibus import Bus, Message, Queue
from unibus.driver import Delivery, Lost
from unibus.errors import ConnectionLost, SettlementLost


@pytest.mark.parametrize(
    ("errors", "lost", "seconds"),
    [
        ([SettlementLost("stale", count=2)], 2, 0.0),  # as it says, not as many as were settled
        ([ConnectionLost("cut")], 0, 0.2),
        ([ConnectionLost("cut")] * 5, 1, 3.0),
        ([RuntimeError("a bug of the driver")], 1, 0.0),
        ([asyncio.CancelledError()], 1, 0.0),
    ],
)
async def test_settlements_that_fail_are_tried_again_or_counted(errors: list[Any], lost: int, seconds: float) -> None:
    bus = Bus()

    @bus.consumer("orders")
    async def handle(order: Order) -> None: ...

    clock, driver = await opened(bus, {})
    await bus.producer("orders").send(Order(id=1))  # one: how many share a settlement depends on how long they take
    driver.fail_settles = list(errors)
    async with bus.consuming():
        (consumer,) = bus.session.consumers
        await clock.advance(seconds)
        assert bus.stats()["orders"].settlements_lost == lost
        assert consumer.held == {}  # off our hands: nothing holds back the next fetch
    await bus.__aexit__(None, None, None)


async def test_what_is_lost_while_handled_is_cancelled_and_settled_by_nobody() -> None:
    bus = Bus()
    ended: list[str] = []

    @bus.consumer("orders", concurrency=2)
    async def handle(order: Order) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    clock, driver = await opened(bus, {})
    await bus.producer("orders").send_many([Order(id=number) for number in range(4)])
    async with bus.consuming():
        (consumer,) = bus.session.consumers
        await clock.quiet()
        driver.notify(Lost(list(consumer.held)))
        await clock.quiet()
        assert ended == ["ended", "ended"]
        assert consumer.held == {}
        assert driver.settled == []
        assert bus.stats()["orders"].lost == 4
        assert bus.stats()["orders"].lane_restarts == 0
        bus.release_now()
    await bus.__aexit__(None, None, None)


async def test_when_the_head_of_a_key_is_lost_what_stands_behind_it_goes_back_too() -> None:
    bus = Bus()
    seen: list[tuple[str | None, int]] = []
    first = asyncio.Event()

    @bus.consumer(Queue("orders", ordering="key"), concurrency=3)
    async def handle(order: Order, message: Message[Order]) -> None:
        if order.id == 0 and not first.is_set():
            first.set()
            await asyncio.Event().wait()
        seen.append((message.key, order.id))

    clock, driver = await opened(bus, {})
    for number in range(6):
        await bus.producer("orders").send(Order(id=number), key="ab"[number % 2])
    async with bus.consuming():
        await clock.quiet()
        assert first.is_set()
        (head,) = (d for lane in bus.session.consumers[0].lanes for d in lane.held)
        extend = driver.subscription.extend

        async def but_the_head(deliveries: Sequence[Delivery], seconds: float) -> None:
            await extend([delivery for delivery in deliveries if delivery is not head], seconds)

        driver.subscription.extend = but_the_head
        await settled(bus, clock)
        assert bus.stats()["orders"].lost == 1
        assert bus.stats()["orders"].given_back == 2
    await bus.__aexit__(None, None, None)
    assert [number for key, number in seen if key == "a"] == [0, 2, 4]
    assert [number for key, number in seen if key == "b"] == [1, 3, 5]


async def test_a_lane_that_dies_gives_back_what_it_had_and_frees_its_key() -> None:
    bus = Bus()
    runs: list[int] = []

    @bus.consumer(Queue("orders", ordering="key"), concurrency=2)
    async def handle(order: Order) -> None:
        runs.append(order.id)
        if runs == [0, 1]:
            raise ValueError

    clock, _ = await opened(bus, {})
    for number in range(4):
        await bus.producer("orders").send(Order(id=number), key="k")
    async with bus.consuming():
        (consumer,) = bus.session.consumers
        carry_out = consumer.verdicts.carry_out

        async def fail_once(delivery: Delivery, message: Any, error: BaseException) -> None:
            consumer.verdicts.carry_out = carry_out  # type: ignore[method-assign]
            raise RuntimeError("a bug of ours")

        consumer.verdicts.carry_out = fail_once  # type: ignore[method-assign]
        await settled(bus, clock)
        assert bus.stats()["orders"].lane_restarts == 1
        assert not bus.health().ready
    await bus.__aexit__(None, None, None)
    assert runs == [0, 1, 1, 2, 3]

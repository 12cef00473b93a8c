"""What could not be begun in time goes back before the broker takes it away."""

from __future__ import annotations

import asyncio

from unibus import Bus, Message, Queue, constant, dead_letter, retry
from unibus.address import Ordering
from unibus.testing import App, app

HOLD = 100
BROKER = f"memory://?hold={3 * HOLD}&lease=30"


def slow_bus(ordering: Ordering, handled: list[int]) -> Bus:
    bus = Bus("memory://")

    @bus.consumer(Queue("orders", ordering=ordering), concurrency=1, prefetch=10)
    async def handle(number: int) -> None:
        await bus.session.clock.sleep(0.9 * HOLD)
        handled.append(number)

    return bus


async def handle_twelve(t: App, *, key: str | None) -> None:
    for number in range(12):
        await t.send("orders", number, key=key)
    await t.settled()


async def test_a_consumer_alone_handles_all_once_and_holds_less() -> None:
    handled: list[int] = []
    async with app(slow_bus("none", handled), BROKER) as t:
        await handle_twelve(t, key=None)
        stats = t.bus.stats()["orders"]
        (consumer,) = t.bus.session.consumers
        assert (stats.lost, stats.suspects) == (0, 0)
        assert 0 < stats.given_back < 12  # no more than can be begun is held from then on
        assert consumer.prefetch == 1
        await t.clock.advance(300 * HOLD)
        assert consumer.prefetch == 10, "in quiet times it may hold more again"
    assert sorted(handled) == list(range(12))


async def test_of_a_key_all_goes_back_so_that_its_order_stays() -> None:
    handled: list[int] = []
    async with app(slow_bus("key", handled), BROKER) as t:
        await handle_twelve(t, key="k")
        assert t.bus.stats()["orders"].lost == 0
        assert t.bus.stats()["orders"].given_back > 0
    assert handled == list(range(12))


async def test_what_arrived_later_of_an_overdue_key_does_not_overtake() -> None:
    bus, handled = Bus("memory://"), list[int]()

    @bus.consumer(Queue("orders", ordering="key"), concurrency=2, prefetch=10)
    async def handle(number: int) -> None:
        await bus.session.clock.sleep(0.95 * HOLD if number == 0 else 1)
        handled.append(number)

    async with app(bus, BROKER) as t:
        for number in (0, 1, 2):
            await t.send("orders", number, key="k")
        await t.clock.advance(0.6 * HOLD)
        for number in (3, 4):
            await t.send("orders", number, key="k")
        await t.settled()
    assert handled == [0, 1, 2, 3, 4]


async def test_what_is_parked_in_vain_for_as_long_again_goes_back() -> None:
    """Its dead letter cannot be sent, for longer than the broker lets it be held."""
    bus, runs = Bus("memory://"), list[int]()

    @bus.consumer("orders", concurrency=1)
    @dead_letter("other.dlq")
    @retry(on=ValueError, attempts=1, backoff=constant(1))
    async def handle(message: Message[int]) -> None:
        runs.append(message.data)
        raise ValueError

    async with app(bus, BROKER) as t:
        sender = t.bus.session.sender_for(Queue("other.dlq"))

        async def refuse(*_: object) -> None:
            raise ConnectionError("no dead letters today")

        sender.send = refuse  # type: ignore[method-assign, assignment]
        await t.send("orders", 7)
        await t.clock.advance(2.5 * HOLD)
        stats = t.bus.stats()["orders"]
        assert (stats.lost, stats.given_back) == (0, 1)
        assert len(runs) == 2, "given back, and tried once more"


async def test_without_a_limit_nothing_is_looked_after() -> None:
    bus = slow_bus("none", [])
    async with app(bus, "memory://"):
        assert bus.session.consumers[0]._overdue is None
        await asyncio.sleep(0)


async def test_what_a_user_of_pull_has_in_hand_stays_there() -> None:
    bus = Bus("memory://")
    async with app(bus, BROKER) as t:
        for number in range(10):
            await t.send("orders", number)
        async with bus.pull(queue="orders", type=int, prefetch=10) as deliveries:
            mine = [delivery for _ in range(3) if (delivery := await deliveries.next()) is not None]
            await t.clock.advance(1.1 * HOLD)
            consumer = deliveries._consumer
            assert (consumer.stats.given_back, consumer.prefetch) == (7, 10)
            for delivery in mine:
                await delivery.ack()
            assert await deliveries.next() is not None, "and there is room for others"
            assert consumer.stats.lost == 0

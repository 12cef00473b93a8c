"""Pulling: messages one by one, settled by hand."""

from __future__ import annotations

import pytest

from tests.unit.core.orders import Order, handled
from unibus import Bus, ConfigurationError


async def test_pull_settles_by_hand_and_gives_back_the_rest() -> None:
    bus = Bus("memory://")
    handled(bus)
    async with bus:
        await bus.producer("orders").send_many([Order(id=number) for number in range(5)])
        await bus.producer("orders").send({"id": "x"})
        async with bus.pull(queue="orders", type=Order) as deliveries:
            got = []
            async for delivery in deliveries:
                got.append(delivery.data.id)
                match delivery.data.id:
                    case 0:
                        await delivery.ack()
                    case 1:
                        await delivery.retry(after=0.05)
                    case 2:
                        await delivery.reject("no")
                if len(got) == 5:
                    break
            again = await deliveries.next(max_wait=30)
            assert again is not None
            assert (again.data.id, again.message.attempt) == (1, 2)
            await again.ack()
            assert await deliveries.next(max_wait=0) is None
        assert got == [0, 1, 2, 3, 4]
        assert (await bus.depth("orders")).ready == 2
        dead = []
        async with bus.pull(queue="orders.dlq") as deliveries:
            while (delivery_ := await deliveries.next(max_wait=0.05)) is not None:
                dead.append(delivery_.data)
                await delivery_.ack()
        assert sorted(dead, key=str) == [{"id": "x"}, {"id": 2}]


async def test_pull_from_a_group_of_topics() -> None:
    bus = Bus("memory://")
    async with bus, bus.pull("order.*", group="audit", type=Order) as deliveries:
        await bus.publisher("order.created").publish(Order(id=4))
        delivery = await deliveries.next(max_wait=1)
        assert delivery is not None
        assert (delivery.data.id, delivery.message.address) == (4, "order.created")
        await delivery.ack()
    with pytest.raises(ConfigurationError, match="not both"):
        bus.pull("order.*", queue="orders")

"""What AWS would charge: its price is per call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.adapters.sqs.conftest import counted, until
from unibus import Bus, Queue

Name = Callable[[str], str]
COUNT = 500


async def test_under_load_a_call_carries_ten_messages(moto: str, name: Name) -> None:
    # Polls wait: else each moment between the last message and its handler's end would be a poll more.
    waiting = moto.replace("wait=0", "wait=1")
    bus, orders, handled = Bus(waiting + "&lease=300"), name("orders"), list[int]()

    @bus.consumer(orders)
    async def handle(number: int) -> None:
        handled.append(number)

    async with bus:
        async with bus.consuming():
            pass
        with counted(bus) as calls:
            await bus.producer(orders).send_many(range(COUNT // 2))
            sends = [bus.producer(orders).send(number) for number in range(COUNT // 2, COUNT)]
            await asyncio.gather(*sends)
        assert calls.keys() == {"SendMessageBatch"}
        assert calls["SendMessageBatch"] <= 0.11 * COUNT
        with counted(bus) as calls:
            async with bus.consuming():
                await until(lambda: len(handled) >= COUNT)
        assert calls["ReceiveMessage"] <= 0.11 * COUNT
        assert calls["DeleteMessageBatch"] <= 0.11 * COUNT


async def test_by_key_a_send_carries_five(moto: str, name: Name) -> None:
    bus, orders = Bus(moto), Queue(name("orders"), ordering="key")

    @bus.consumer(orders)
    async def handle(number: int) -> None:
        pass

    async with bus:
        async with bus.consuming():
            pass
        producer = bus.producer(orders)
        with counted(bus) as calls:
            await producer.send_many(range(COUNT // 2), key=lambda number: f"k{number % 40}")
            sends = [producer.send(number, key=f"k{number % 40}") for number in range(COUNT // 2, COUNT)]
            await asyncio.gather(*sends)
        assert calls["SendMessageBatch"] <= 0.2 * COUNT


async def test_who_is_idle_polls_once_at_a_time(elasticmq: str, name: Name) -> None:
    bus = Bus(elasticmq.replace("wait=1", "wait=3"))

    @bus.consumer(name("orders"))
    async def handle(number: int) -> None:
        pass

    async with bus, bus.consuming():
        with counted(bus) as calls:
            await asyncio.sleep(9)  # of which a minute would have twenty
    assert calls.keys() <= {"ReceiveMessage"}
    assert calls["ReceiveMessage"] <= 4

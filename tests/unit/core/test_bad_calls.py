"""Bad calls of a bus: payloads, headers and delays that it cannot send, and calls that come too early or too late."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from tests.unit.core.orders import Order
from tests.unit.core.refusals import refused
from unibus import Bus, ConfigurationError, EncodeError, MessageTooLarge, NotOpen, UnsupportedCapability
from unibus.errors import BatchError
from unibus.testing import app

# --- payloads -----------------------------------------------------------------------------------------


async def test_a_wrong_payload_is_refused_before_anything_leaves() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order) -> None: ...

    async with app(bus) as t:
        producer = bus.producer("orders", Order)
        with pytest.raises(EncodeError, match=r"dict does not fit .* Order.*id: Input should be a valid integer"):
            await producer.send({"id": "x"})  # type: ignore[arg-type]
        with pytest.raises(EncodeError, match="object"):
            await bus.producer("orders").send(object())
        with pytest.raises(EncodeError, match="sends bytes"):
            await bus.producer("orders", bytes).send("text")  # type: ignore[arg-type]
        assert t.all_sent == []


CHANGED = """
from pydantic import BaseModel
from unibus.codec import Encoder

class Order(BaseModel):
    id: int

order = Order(id=1)
order.id = "hush"
Encoder(Order).encode(order)
"""


def test_a_payload_that_was_changed_to_what_its_type_forbids_does_not_leave() -> None:
    """In a process of its own: here every warning is an error."""
    done = subprocess.run([sys.executable, "-c", CHANGED], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "EncodeError: a payload of type Order cannot be written as JSON" in done.stderr
    assert "field_name='id', input_type=str" in last
    assert "hush" not in last


async def test_send_many_names_what_could_not_be_encoded_and_sends_the_rest() -> None:
    bus = Bus("memory://")
    seen: list[int] = []

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        seen.append(order.id)

    async with app(bus) as t:
        with pytest.raises(BatchError, match="2 of 5 messages failed; the first is message 1: EncodeError") as caught:
            await bus.producer("orders", Order).send_many([{"id": 0}, {"id": "a"}, {"id": 2}, {}, {"id": 4}])  # type: ignore[list-item]
        assert sorted(caught.value.errors) == [1, 3]
        await t.settled()
    assert sorted(seen) == [0, 2, 4]


async def test_over_the_limit_says_both_sizes() -> None:
    bus = Bus("memory://?max_body=20")

    @bus.consumer("orders")
    async def handle(order: bytes) -> None: ...

    async with bus:
        await bus.producer("orders").send(b"x" * 20)
        with pytest.raises(MessageTooLarge, match=r"21 bytes.*20 bytes") as caught:
            await bus.producer("orders").send(b"x" * 21)
        assert (caught.value.size, caught.value.limit) == (21, 20)
        assert (await bus.depth("orders")).ready == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"bad name": "x"},
        {"": "x"},
        {"x": "a\nb"},
        {"x": "a\0b"},
        {"x": "y" * 4097},
        {"unibus-x": "1"},
        {"ce_id": "1"},
        {"x": 5},
        {f"h{n}": "x" for n in range(65)},
    ],
)
async def test_headers_that_no_broker_carries(headers: Any) -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order) -> None: ...

    async with bus:
        with pytest.raises(EncodeError):
            await bus.producer("orders").send(Order(id=1), headers=headers)
        assert (await bus.depth("orders")).ready == 0


# --- delays -------------------------------------------------------------------------------------------


async def test_delays_beyond_what_was_said_or_can_be() -> None:
    bus = Bus("memory://?delay_max=100")

    @bus.consumer("orders")
    async def handle(order: Order) -> None: ...

    async with bus:
        with pytest.raises(UnsupportedCapability, match="over the 10 s that the producer"):
            await bus.producer("orders", Order, delay=10).send(Order(id=1), delay=11)
        with pytest.raises(UnsupportedCapability, match="100 s at most"):
            await bus.producer("orders").send(Order(id=1), delay=101)
        for bad in (-1, float("nan"), float("inf"), True):
            with pytest.raises(ConfigurationError, match=r"send\(delay=…\): .* not negative"):
                await bus.producer("orders").send(Order(id=1), delay=bad)
            with pytest.raises(ConfigurationError, match=r"send_many\(delay=…\): .* not negative"):
                await bus.producer("orders").send_many([Order(id=1)], delay=bad)
        assert (await bus.depth("orders")).ready == 0
    bus.producer("orders", Order, delay=500)
    assert "delays of up to 500 s" in await refused(bus)


# --- states -------------------------------------------------------------------------------------------


async def test_before_start_and_after_close() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order) -> None: ...

    producer = bus.producer("orders")
    with pytest.raises(NotOpen, match="not open yet"):
        await producer.send(Order(id=1))
    async with bus:
        await producer.send(Order(id=1))
        with pytest.raises(ConfigurationError, match="open already"):
            await bus.__aenter__()
    for use in (
        lambda: producer.send(Order(id=1)),
        lambda: producer.send_many([Order(id=1)]),
        lambda: bus.depth("orders"),
    ):
        with pytest.raises(NotOpen, match="closed"):
            await use()
    with pytest.raises(NotOpen, match="closed"):
        async with bus.pull(queue="orders"):
            pass


async def test_consuming_twice_is_refused() -> None:
    bus = Bus("memory://")
    async with bus.consuming():
        with pytest.raises(ConfigurationError, match="consuming already"):
            async with bus.consuming():
                pass

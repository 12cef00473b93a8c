"""Dead letters as a consumer writes them: their record, their queue, and what becomes of those that fail again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.unit.core.orders import Order
from unibus import Bus, Message, Reject, constant, dead_letter, retry
from unibus.driver import Address, Outbound
from unibus.errors import ConnectionLost
from unibus.testing import app


async def test_exhausted_retries_leave_a_complete_record() -> None:
    bus = Bus("memory://", name="shop")

    @bus.consumer("orders")
    @retry(on=ConnectionError, attempts=3, backoff=constant(10))
    async def handle(order: Order) -> None:
        raise ConnectionError("no route")

    async with app(bus) as t:
        await t.send("orders", Order(id=1), headers={"a": "b"}, key="k")
        await t.settled()
        (dead,) = t.dead_letters("orders")
    record = dead.dead_letter
    assert record is not None
    assert dead.address == "orders.dlq"
    assert dead.body == b'{"id":1}'
    assert (dict(dead.headers), dead.key) == ({"a": "b"}, "k")
    assert (record.reason, record.error_type, record.message) == (
        "failed 3 times: ConnectionError: no route",
        "ConnectionError",
        "no route",
    )
    assert "in handle\n" in record.stack
    assert (record.attempts, record.source, record.topic, record.group) == (3, "orders", "", "")
    assert (record.first_failure, record.last_failure) == ("2026-01-01T00:00:00.000Z", "2026-01-01T00:00:20.000Z")
    assert "handle" in record.handler
    assert record.host
    assert dead.attributes["type"] == "Order"
    assert "unibusattempt" not in dead.attributes


async def test_dead_letter_none_drops_and_a_name_redirects() -> None:
    bus = Bus("memory://")

    @bus.consumer("a")
    @dead_letter(None)
    async def first(order: Order) -> None:
        raise Reject("x")

    @bus.consumer("b")
    @dead_letter("graveyard")
    async def second(order: Order) -> None:
        raise Reject("y")

    async with app(bus) as t:
        await t.send("a", Order(id=1))
        await t.send("b", Order(id=1))
        await t.settled()
        assert t.sent("a.dlq") == []
        assert len(t.sent("graveyard")) == 1
        assert (bus.stats()["a"].dropped, bus.stats()["b"].dead_lettered) == (1, 1)


async def test_an_ephemeral_subscriber_has_no_dead_letters_and_retries_in_place() -> None:
    bus = Bus("memory://")
    attempts: list[int] = []

    @bus.subscriber("order.*")
    @retry(on=ValueError, attempts=3, backoff=constant(30))
    async def handle(order: Order, message: Message[Order]) -> None:
        attempts.append(message.attempt)
        raise ValueError

    async with app(bus) as t:
        await t.publish("order.created", Order(id=1))
        await t.settled()
        assert bus.stats()["order.*"].dropped == 1
        assert len(t.all_sent) == 1
    assert attempts == [1, 2, 3]


async def test_dead_letters_that_cannot_be_sent_are_neither_acked_nor_lost(caplog: pytest.LogCaptureFixture) -> None:
    down = True

    class NoDeadLetters:
        """The memory driver, whose dead-letter queue is out of reach for a while."""

        def __init__(self, driver: Any) -> None:
            self.driver = driver

        def __getattr__(self, name: str) -> Any:
            return getattr(self.driver, name)

        async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
            if down and address.name == "orders.dlq":
                raise ConnectionLost("out of reach")
            await self.driver.send(address, messages)

    bus = Bus("memory://")

    runs: list[int] = []

    @bus.consumer("orders", prefetch=10)
    async def handle(order: Order) -> None:
        runs.append(order.id)
        raise Reject("no")

    # The kit connects memory itself, so the broken driver goes on top of what it connected.
    async with app(bus) as t:
        session = bus.session
        session.driver = NoDeadLetters(session.driver)
        session._senders.clear()
        await bus.producer("orders").send_many([Order(id=number) for number in range(8)])
        await t.clock.advance(30)
        assert (await bus.depth("orders")).in_flight == 8
        assert bus.stats()["orders"].dead_lettered == 0
        assert bus.stats()["orders"].send_failures == 8 * 5  # after 0, 1, 3, 7 and 15 s
        assert bus.health().reasons == ("orders: 40 re-sends or dead letters in a row failed",)
        await bus.producer("orders").send_many([Order(id=number) for number in range(8, 16)])
        await t.clock.advance(0.5)
        assert len(runs) == 8  # five in a row failed: nothing more is fetched for a while
        down = False
        await t.settled()
        assert sorted(runs) == list(range(16))  # only the sending was done again
        assert len(t.dead_letters("orders")) == 16
        assert bus.health().ready


# --- dead letters of dead letters ---------------------------------------------------------------------


async def test_an_exhausted_message_of_a_dead_letter_queue_is_given_back_later_and_health_says_so() -> None:
    bus = Bus("memory://")
    runs: list[float] = []
    fail = True

    @bus.consumer("orders.dlq")
    @retry(on=ValueError, attempts=1)
    async def handle(order: Order, message: Message[Order]) -> None:
        runs.append(t.clock.monotonic())
        if fail:
            raise ValueError

    async with app(bus) as t:
        await t.send("orders.dlq", Order(id=1))
        await t.clock.advance(150)
        assert runs == [1000.0, 1060.0, 1120.0]
        assert bus.health().reasons == ("orders.dlq: 3 re-sends or dead letters in a row failed",)
        assert bus.stats()["orders.dlq"].given_back == 2
        assert len(t.all_sent) == 1
        fail = False
        await t.settled()


async def test_a_dead_letter_queue_with_a_destination_of_its_own() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders.dlq")
    @dead_letter("hopeless")
    async def handle(order: Order) -> None:
        raise Reject("still no")

    async with app(bus) as t:
        await t.send("orders.dlq", Order(id=1))
        await t.settled()
        assert len(t.sent("hopeless")) == 1

"""Handlers: threads, what they send inherits, what is injected, and what the Bus counts."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel

from unibus.bus import Bus
from unibus.driver import Outbound, Queue
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.retry import retry
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, again_at_once, difference, drained
from unibus.testing.contract.needs import GROUPS, RELIABLE_QUEUES, needs
from unibus.testing.harness import Harness


class Created(BaseModel):
    """One of two messages that differ by their type alone."""

    id: int


class Deleted(BaseModel):
    """The other one."""

    id: int


class Pool:
    """Something that a lifespan yields."""

    open = True


class Handling(Cases):
    async def test_plain_functions_run_in_threads(self, harness: Harness) -> None:
        bus, name, handled, threads = harness.bus(), harness.name("orders"), list[int](), set[int]()

        @bus.consumer(name, guarantee=harness.queue_guarantee, concurrency=4)
        @again_at_once
        def handle(number: int) -> None:
            threads.add(threading.get_ident())
            handled.append(number)

        async with harness.running(bus):
            await bus.producer(name).send_many(range(40))
            await harness.until(lambda: len(handled) >= 40, "all are handled")
        assert not difference(handled, range(40))
        assert threading.get_ident() not in threads

    @needs(RELIABLE_QUEUES)
    async def test_a_plain_function_that_fails_is_tried_again(self, harness: Harness) -> None:
        bus, name, attempts = harness.bus(), harness.name("orders"), list[int]()

        @bus.consumer(name)
        @retry(on=ConnectionError, attempts=2, backoff=constant(0))
        def handle(message: Message[int]) -> None:
            attempts.append(message.attempt)
            raise ConnectionError

        async with harness.running(bus):
            await bus.producer(name).send(1)
            await harness.until(lambda: bus.stats()[name].dead_lettered == 1, "it is a dead letter")
        assert attempts == [1, 2]

    @needs(GROUPS)
    async def test_what_a_handler_sends_belongs_to_the_conversation(self, harness: Harness) -> None:
        bus, first, second = harness.bus(), harness.name("first"), harness.name("second")
        topic, got = harness.name("done"), dict[str, Message[Any]]()

        @bus.consumer(first, guarantee=harness.queue_guarantee)
        @again_at_once
        async def begin(message: Message[int]) -> None:
            got["first"] = message
            await asyncio.gather(bus.producer(second).send(2), bus.publisher(topic).publish(3))

        @bus.consumer(second, guarantee=harness.queue_guarantee)
        @again_at_once
        async def go_on(message: Message[int]) -> None:
            got["second"] = message

        @bus.subscriber(topic, group=harness.name("group"), guarantee=harness.topic_guarantee)
        @again_at_once
        async def end(message: Message[int]) -> None:
            got["third"] = message

        trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        async with harness.running(bus):
            await bus.driver.send(Queue(first), [Outbound(b"1", {"correlationid": "c-1", **trace}, {}, None, "m-1")])
            await harness.until(lambda: len(got) >= 3, "all have come")
            for which in ("second", "third"):
                assert got[which].correlation_id == "c-1"
                assert got[which].causation_id == "m-1"
                assert got[which].attributes["traceparent"] == trace["traceparent"]
            await bus.producer(second).send(4)
            await harness.until(lambda: got["second"].data == 4, "another one has come")
        assert got["second"].causation_id is None
        assert got["second"].correlation_id == got["second"].id

    async def test_of_a_union_the_type_chooses(self, harness: Harness) -> None:
        bus, name, got = harness.bus(), harness.name("events"), list[Any]()

        @bus.consumer(name, guarantee=harness.queue_guarantee)
        @again_at_once
        async def handle(event: Created | Deleted) -> None:
            got.append(event)

        async with harness.running(bus):
            await bus.producer(name).send(Created(id=1))
            await bus.producer(name).send(Deleted(id=2))
            await harness.until(lambda: len(got) >= 2, "both are handled")
        assert sorted(got, key=lambda event: int(event.id)) == [Created(id=1), Deleted(id=2)]

    async def test_a_stranger_s_plain_message_is_handled(self, harness: Harness) -> None:
        bus, name, got = harness.bus(), harness.name("events"), list[Message[Any]]()

        @bus.consumer(name, guarantee=harness.queue_guarantee)
        @again_at_once
        async def handle(event: Created, message: Message[Created]) -> None:
            got.append(message)

        async with harness.running(bus):
            await bus.driver.send(Queue(name), [Outbound(b'{"id": 1}', {}, {"x": "y"}, None, "foreign")])
            await harness.until(lambda: bool(got), "it is handled")
        assert (got[0].data, got[0].headers, got[0].attempt) == (Created(id=1), {"x": "y"}, 1)

    async def test_resources_open_before_the_first_message_and_close_after_the_last(self, harness: Harness) -> None:
        name, log = harness.name("orders"), list[str]()

        async def lifespan(bus: Bus) -> AsyncIterator[Pool]:
            log.append("open")
            yield Pool()
            log.append("close")

        bus = harness.bus(lifespan=lifespan)

        @bus.consumer(name, guarantee=harness.queue_guarantee)
        @again_at_once
        async def handle(number: int, pool: Pool, the_bus: Bus) -> None:
            assert the_bus is bus
            assert pool.open
            log.append(f"handle {number}")

        async with harness.running(bus):
            await bus.producer(name).send(1)
            await harness.until(lambda: "handle 1" in log, "it is handled")
        assert log == ["open", "handle 1", "close"]

    @needs(RELIABLE_QUEUES)
    async def test_a_consumer_of_dead_letters_gives_back_what_it_cannot_handle(self, harness: Harness) -> None:
        bus, name, runs = harness.bus(), harness.name("orders"), list[int]()
        ledger = Ledger(harness)
        ledger.consume(bus, name)
        careless = harness.bus()

        @careless.consumer(name + ".dlq")
        @retry(on=Exception, attempts=1)
        async def handle(message: Message[Any]) -> None:
            runs.append(message.attempt)
            raise ConnectionError

        async with harness.running(bus, careless):
            await bus.producer(name).send("undecodable? no: any payload")
            await bus.driver.send(Queue(name + ".dlq"), [Outbound(b"1", {}, {}, None, "letter")])
            await harness.until(lambda: bool(runs), "it is tried")
            await harness.until(lambda: not careless.health().ready, "health says so")
        assert [letter.id for letter in await drained(harness, name + ".dlq", 1)] == ["letter"]

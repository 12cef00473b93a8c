"""Pulling: deliveries one by one, settled by hand."""

from __future__ import annotations

import pytest

from unibus.dead_letters import DeadLetter
from unibus.errors import NotOpen
from unibus.message import Message
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.ledger import Ledger, difference, drained
from unibus.testing.contract.needs import DELAY, GROUPS, RELIABLE_QUEUES, RELIABLE_TOPICS, needs
from unibus.testing.faults import Faults
from unibus.testing.harness import Harness


@needs(RELIABLE_QUEUES)
class Pulling(Cases):
    async def test_what_is_acked_is_done_and_the_rest_is_given_back(self, harness: Harness) -> None:
        bus, name, taken = harness.bus(), harness.name("orders"), list[int]()
        await _made(harness, name)
        async with harness.connected(bus):
            await bus.producer(name).send_many(range(10))
            pulling = bus.pull(queue=name, type=int)
            deliveries = await harness.passing(pulling.__aenter__())
            for _ in range(8):
                delivery = await harness.passing(deliveries.next(harness.patience))
                assert delivery is not None
                if len(taken) < 5:
                    taken.append(delivery.data)
                    await delivery.ack()
            await harness.passing(pulling.__aexit__(None, None, None))
        left = await drained(harness, name, 10 - len(taken))
        assert not difference([*taken, *(int(message.data) for message in left)], range(10))
        assert all(message.attempt == 1 for message in left)

    async def test_nothing_comes_from_an_empty_queue(self, harness: Harness) -> None:
        bus, name = harness.bus(), harness.name("orders")
        await _made(harness, name)
        async with harness.connected(bus):
            pulling = bus.pull(queue=name, type=int)
            deliveries = await harness.passing(pulling.__aenter__())
            assert await harness.passing(deliveries.next(0.1)) is None
            await harness.passing(pulling.__aexit__(None, None, None))
            with pytest.raises(NotOpen):
                await deliveries.next(0.1)

    @pytest.mark.parametrize("after", [0.0, 0.3, pytest.param(1.2, id="delayed")])
    async def test_a_retry_comes_again_with_its_attempt(self, harness: Harness, after: float) -> None:
        if after >= 1 and not DELAY.met(harness):
            pytest.skip(f"needs {DELAY.name}")
        bus, name, attempts = harness.bus(), harness.name("orders"), list[tuple[int, float]]()
        await _made(harness, name)
        async with harness.connected(bus):
            await bus.producer(name).send(1)
            pulling = bus.pull(queue=name, type=int)
            deliveries = await harness.passing(pulling.__aenter__())
            for turn in range(3):
                delivery = await harness.passing(deliveries.next(harness.patience + after))
                assert delivery is not None
                attempts.append((delivery.message.attempt, harness.now()))
                await harness.passing(delivery.ack() if turn == 2 else delivery.retry(after=after))
            await harness.passing(pulling.__aexit__(None, None, None))
        assert [attempt for attempt, _ in attempts] == [1, 2, 3]
        assert attempts[1][1] - attempts[0][1] >= after - 0.001
        await drained(harness, name, 0)

    async def test_a_rejected_one_is_a_dead_letter(self, harness: Harness) -> None:
        bus, name, faults = harness.bus(), harness.name("orders"), Faults()
        await _made(harness, name)
        async with harness.connected(bus):
            await bus.producer(name).send_many([1, "undecodable", 2])
            pulling = bus.pull(queue=name, type=int)
            deliveries = await harness.passing(pulling.__aenter__())
            for _ in range(2):
                delivery = await harness.passing(deliveries.next(harness.patience))
                assert delivery is not None
                await harness.passing(delivery.reject("not today") if delivery.data == 1 else delivery.ack())
            await harness.passing(deliveries.next(0.1))
            await harness.passing(pulling.__aexit__(None, None, None))
        letters = {letter.body: letter for letter in await drained(harness, name + ".dlq", 2)}
        assert letters.keys() == {b"1", b'"undecodable"'}
        record = DeadLetter.from_attributes(letters[b"1"].attributes)
        assert record is not None
        assert record.reason == "not today"
        await drained(harness, name, 0)
        assert not faults.held

    @needs(GROUPS, RELIABLE_TOPICS)
    async def test_a_group_is_pulled_from_too(self, harness: Harness) -> None:
        bus, topic, got = harness.bus(), harness.name("news"), list[Message[int]]()
        async with harness.connected(bus):
            pulling = bus.pull(topic, group=harness.name("group"), type=int)
            deliveries = await harness.passing(pulling.__aenter__())
            await bus.publisher(topic).publish_many(range(5))
            while len(got) < 5:
                delivery = await harness.passing(deliveries.next(harness.patience))
                assert delivery is not None
                got.append(delivery.message)
                await delivery.ack()
            await harness.passing(pulling.__aexit__(None, None, None))
        assert not difference([message.data for message in got], range(5))
        assert {message.address for message in got} == {topic}


async def _made(harness: Harness, name: str) -> None:
    """The queue and its dead letters exist; nobody consumes."""
    bus = harness.bus()
    Ledger(harness).consume(bus, name)
    async with harness.connected(bus):
        pass

"""What becomes of a message that one of several groups fails to handle."""

from __future__ import annotations

import pytest

from unibus import attributes as names
from unibus.dead_letters import DeadLetter
from unibus.driver import Outbound, TopicSubscription
from unibus.message import Message
from unibus.middleware.backoff import constant
from unibus.middleware.retry import retry
from unibus.testing.contract.cases import Cases
from unibus.testing.contract.failures import Broken, skip_without_delay
from unibus.testing.contract.ledger import Ledger, drained
from unibus.testing.contract.needs import DELAY, GROUPS, RELIABLE_TOPICS, needs
from unibus.testing.harness import Harness


@needs(GROUPS, RELIABLE_TOPICS)
class GroupFailures(Cases):
    @pytest.mark.parametrize("wait", [0.0, pytest.param(1.2, id="delayed")])
    async def test_a_retry_reaches_its_group_alone(self, harness: Harness, wait: float) -> None:
        skip_without_delay(harness, wait)
        topic, runs, others = harness.name("order.created"), list[int](), [Ledger(harness), Ledger(harness)]
        bus = harness.bus()
        for number, other in enumerate(others):
            other.subscribe(bus, topic, group=harness.name(f"other{number}"))

        @bus.subscriber(topic, group=harness.name("failing"))
        @retry(on=Broken, attempts=3, backoff=constant(wait))
        async def handle(message: Message[int]) -> None:
            runs.append(message.attempt)
            if message.attempt < 3:
                raise Broken

        async with harness.running(bus):
            await bus.publisher(topic).publish(1)
            await harness.until(lambda: len(runs) >= 3, "three runs")
            for other in others:
                await other.has([1])
        assert runs == [1, 2, 3]

    @needs(DELAY)
    async def test_a_delayed_retry_keeps_its_topic_and_is_handled(self, harness: Harness) -> None:
        topics, got = [harness.name(f"user.{what}") for what in ("created", "renamed")], list[tuple[int, str]]()
        bus = harness.bus()

        @bus.subscriber(*topics, group=harness.name("group"))
        @retry(on=Broken, attempts=3, backoff=constant(1))
        async def handle(message: Message[int]) -> None:
            got.append((message.attempt, message.address))
            if message.attempt < 3:
                raise Broken

        async with harness.running(bus):
            for topic in topics:
                await bus.publisher(topic).publish(1, headers={"a": "b"})
            await harness.until(lambda: len(got) >= 6, "all runs")
            assert bus.stats()[harness.name("group")].unmatched == 0
        assert sorted(got) == sorted((attempt, topic) for attempt in (1, 2, 3) for topic in topics)

    async def test_whether_it_still_matches_is_judged_by_the_topic_and_never_for_a_retry(
        self, harness: Harness
    ) -> None:
        topic, group, ledger = harness.name("user.created"), harness.name("group"), Ledger(harness)
        bus = harness.bus()
        ledger.subscribe(bus, topic, group=group)
        alone = TopicSubscription((topic,), group)
        elsewhere = harness.name("user.renamed")
        async with harness.running(bus):
            stale = Outbound(b"1", {}, {}, None, "stale", topic=elsewhere)
            retried = Outbound(b"2", {names.ATTEMPT: "2"}, {}, None, "retried", topic=elsewhere)
            await bus.driver.send(alone, [stale, retried])
            await bus.publisher(topic).publish(3)
            await ledger.has([2, 3])
            assert bus.stats()[group].unmatched == 1
        exact = harness.capabilities.patterns == "native"
        (letter,) = await drained(harness, alone.dead_letters, 1) if exact else [None]
        if letter is not None:
            record = DeadLetter.from_attributes(letter.attributes)
            assert (letter.data, letter.address) == (b"1", elsewhere)
            assert record is not None
            assert record.reason.startswith("Unmatched")
        assert {message.address for message in ledger.messages if message.data == 2} == {elsewhere}

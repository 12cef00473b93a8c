"""Delays whose queue was deleted: nobody consumes it, and nobody would notice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from tests.adapters.kafka.conftest import Events, opened, out, subscribed, until
from unibus.driver import Gap, Outcome, Queue, Topology
from unibus_kafka import forwarding

ASIDE = Queue("undeliverable", physical="unibus.undeliverable")


async def test_they_are_put_aside_and_told_of_once(
    url: str, name: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwarding, "LOOK_EVERY", 0.3)
    alive, doomed, events, more = Queue(name("alive")), Queue(name("doomed")), Events(), Events()
    async with opened(url) as driver, opened(url) as sender:
        await sender.declare(Topology(create=(alive, doomed)))
        await sender.send(alive, [out("first", delay=0.1)])
        watching, second = await subscribed(driver, alive, events), await subscribed(driver, alive, more)
        await sender.send(doomed, [out(name(str(number)), delay=3.0) for number in range(5)])
        admin = AIOKafkaAdminClient(bootstrap_servers=driver._endpoint.servers)
        await admin.start()
        await admin.delete_topics([doomed.name])
        await admin.close()
        await until(lambda: sum(event.count or 0 for event in events.of(Gap)) >= 5, "it is told")
        assert sum(event.count or 0 for event in (*events.of(Gap), *more.of(Gap))) == 5
        aside, found = await subscribed(sender, ASIDE), set[str]()
        while batch := await aside.receive(100, 1.0):
            found |= {delivery.message_id for delivery in batch}
            await aside.settle(batch, Outcome.ACK)
        assert found >= {name(str(number)) for number in range(5)}
        for subscription in (watching, second, aside):
            await subscription.close()

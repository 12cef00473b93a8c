"""In order by key: FIFO queues, and what their memory of five minutes must not swallow."""

from __future__ import annotations

from collections.abc import Callable

from tests.adapters.sqs.conftest import ids, opened, out, subscribed, take
from unibus.driver import Outcome, Queue, Topology

Name = Callable[[str], str]


async def test_a_repeated_send_is_one_message_and_a_replay_is_another(elasticmq: str, name: Name) -> None:
    orders = Queue(name("orders"), ordering="key")
    first = out("1", key="k")
    replayed = out("1", key="k", attributes={"type": "t", "unibusreplays": "1"})
    retried = out("1", key="k", attributes={"type": "t", "unibusattempt": "2"})
    async with opened(elasticmq) as driver:
        subscription = await subscribed(driver, orders)
        for again in (first, first, replayed, replayed, retried):
            await driver.send(orders, [again])
        got = []
        for _ in range(3):
            (delivery,) = await take(subscription, 1)
            got.append(delivery.attributes)
            await subscription.settle([delivery], Outcome.ACK)
        assert got == [first.attributes, replayed.attributes, retried.attributes]
        await driver.send(orders, [first, out("end", key="k")])  # swallowed, though it was deleted
        (delivery,) = await take(subscription, 1)
        assert delivery.message_id == "end"
        await subscription.settle([delivery], Outcome.ACK)


async def test_one_key_holds_back_no_other(url: str, name: Name) -> None:
    orders = Queue(name("orders"), ordering="key")
    async with opened(url + "&lease=300") as driver:
        await driver.declare(Topology(create=(orders,)))
        # Before anybody receives: what is in hand of a key hides what comes after.
        await driver.send(orders, [out(f"{key}{n}", key=key) for n in range(2) for key in "abc"])
        subscription = await subscribed(driver, orders, prefetch=10)
        held = await take(subscription, 6)
        for key in "abc":
            assert [one for one in ids(held) if one.startswith(key)] == [f"{key}0", f"{key}1"]
        await subscription.settle([one for one in held if one.key != "a"], Outcome.ACK)
        await driver.send(orders, [out("b2", key="b")])
        (delivery,) = await take(subscription, 1)
        assert delivery.message_id == "b2"
        await subscription.settle([*[one for one in held if one.key == "a"], delivery], Outcome.ACK)

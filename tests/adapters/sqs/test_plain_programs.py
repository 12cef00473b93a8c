"""Programs without unibus, which use boto3, read what we write and write what we read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from tests.adapters.sqs.conftest import opened, out, plain, subscribed, take, until
from unibus import Bus, Message
from unibus.driver import Outcome, Queue, TopicSubscription
from unibus_sqs.names import queue_name

Name = Callable[[str], str]


class Order(BaseModel):
    id: int
    customer: str = "Zoë"


def text(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}


def received(client: Any, queue_url: str) -> Any:
    (message,) = client.receive_message(QueueUrl=queue_url, MessageAttributeNames=["All"], WaitTimeSeconds=5)[
        "Messages"
    ]
    client.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
    return message


async def test_a_plain_consumer_reads_what_we_send(url: str, name: Name) -> None:
    bus, orders = Bus(url, name="shop"), name("orders")
    with plain(url) as client:
        queue = client.create_queue(QueueName=queue_name(Queue(orders)))["QueueUrl"]
        async with bus:
            await bus.producer(orders, type=Order).send(Order(id=7), key="k", headers={"tenant": "acme"}, id="m-1")
            await bus.producer(orders).send(b"\x00\xff", id="m-2")
        first, second = received(client, queue), received(client, queue)
    if json.loads(second["MessageAttributes"]["unibus"]["StringValue"])["a"]["id"] == "m-1":
        first, second = second, first
    assert json.loads(first["Body"]) == {"id": 7, "customer": "Zoë"}
    assert first["MessageAttributes"]["tenant"]["StringValue"] == "acme"
    told = json.loads(first["MessageAttributes"]["unibus"]["StringValue"])["a"]
    assert (told["id"], told["type"], told["source"], told["partitionkey"]) == ("m-1", "Order", "shop", "k")
    assert second["Body"] == "AP8="
    assert json.loads(second["MessageAttributes"]["unibus"]["StringValue"])["form"] == "base64"


async def test_a_plain_producer_writes_what_we_handle(url: str, name: Name) -> None:
    bus, orders, got = Bus(url), name("orders"), list[Message[Order]]()

    @bus.consumer(orders)
    async def handle(order: Order, message: Message[Order]) -> None:
        got.append(message)

    with plain(url) as client:
        queue = client.create_queue(QueueName=queue_name(Queue(orders)))["QueueUrl"]
        sent = client.send_message(
            QueueUrl=queue, MessageBody='{"id": 1}', MessageAttributes={"tenant": text("acme")}, DelaySeconds=1
        )
        async with bus.consuming():
            await until(lambda: bool(got))
    assert (got[0].data.customer, dict(got[0].headers), got[0].id) == ("Zoë", {"tenant": "acme"}, sent["MessageId"])


async def test_a_plain_producer_writes_in_order(url: str, name: Name) -> None:
    orders = Queue(name("orders"), ordering="key")
    async with opened(url) as driver:
        subscription = await subscribed(driver, orders)
        with plain(url) as client:
            queue = client.get_queue_url(QueueName=queue_name(orders))["QueueUrl"]
            for number in range(3):
                client.send_message(
                    QueueUrl=queue, MessageBody=str(number), MessageGroupId="ada", MessageDeduplicationId=str(number)
                )
        got = await take(subscription, 3)
        assert [(delivery.body, delivery.key) for delivery in got] == [(b"0", "ada"), (b"1", "ada"), (b"2", "ada")]
        await subscription.settle(got, Outcome.ACK)


async def test_a_plain_publisher_reaches_a_group(moto: str, name: Name) -> None:
    group = TopicSubscription((name("order.*"),), name("mail"))
    async with opened(moto) as driver:
        subscription = await subscribed(driver, group)
        with plain(moto, "sns") as client:
            topic = client.create_topic(Name="unibus")["TopicArn"]
            for word in ("order.paid", "user.created"):
                client.publish(
                    TopicArn=topic, Message=word, MessageAttributes={"unibus-topic": text(name(word)), "t": text("7")}
                )
        (delivery,) = await take(subscription, 1)
        assert (delivery.body, delivery.address) == (b"order.paid", name("order.paid"))
        assert dict(delivery.headers) == {"t": "7"}
        await subscription.settle([delivery], Outcome.ACK)
        assert not await subscription.receive(1, 0.5)


async def test_what_comes_by_a_subscription_of_somebody_else_is_unwrapped(moto: str, name: Name) -> None:
    orders = Queue(name("orders"))
    async with opened(moto) as driver:
        subscription = await subscribed(driver, orders)
        with plain(moto, "sns") as client, plain(moto) as queues:
            queue = queues.get_queue_url(QueueName=queue_name(orders))["QueueUrl"]
            arn = queues.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            topic = client.create_topic(Name=name("theirs").replace(".", "-"))["TopicArn"]
            client.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
            client.publish(TopicArn=topic, Message='{"id": 1}', MessageAttributes={"tenant": text("acme")})
        (delivery,) = await take(subscription, 1)
        assert (delivery.body, dict(delivery.headers)) == (b'{"id": 1}', {"tenant": "acme"})
        await subscription.settle([delivery], Outcome.ACK)


async def test_a_plain_program_hears_what_we_publish(moto: str, name: Name) -> None:
    with plain(moto, "sns") as client, plain(moto) as queues:
        queue = queues.create_queue(QueueName=name("theirs").replace(".", "-"))["QueueUrl"]
        arn = queues.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        topic = client.create_topic(Name="unibus")["TopicArn"]
        subscribed_by = client.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=arn,
            Attributes={"RawMessageDelivery": "true", "FilterPolicy": json.dumps({"unibus-topic": [name("news")]})},
            ReturnSubscriptionArn=True,
        )["SubscriptionArn"]
        async with Bus(moto) as bus:
            await bus.publisher(name("news"), type=Order).publish(Order(id=3))
        message = received(queues, queue)
        assert json.loads(message["Body"])["id"] == 3
        assert message["MessageAttributes"]["unibus-topic"]["StringValue"] == name("news")
        client.unsubscribe(SubscriptionArn=subscribed_by)
        queues.delete_queue(QueueUrl=queue)


async def test_the_client_itself_is_at_hand(url: str, name: Name) -> None:
    orders = Queue(name("orders"))
    async with opened(url) as driver:
        subscription = await subscribed(driver, orders)
        await driver.send(orders, [out("1")])
        (delivery,) = await take(subscription, 1)
        assert delivery.native["Body"] == "1"
        assert (await driver.sqs.get_queue_url(QueueName=queue_name(orders)))["QueueUrl"]
        await subscription.settle([delivery], Outcome.ACK)

"""SQS, as two servers play it and as the scenarios have to know it. Both forget all when they end: none is killed."""

from __future__ import annotations

from tests.faults.server import Bounds, Server
from unibus import Bus, Queue
from unibus_sqs.driver import SqsDriver
from unibus_sqs.names import queue_name

LEASE = 3


class SqsTools:
    async def delete(self, url: str, queue: str) -> int:
        async with Bus(url) as bus:
            ready = (await bus.depth(queue)).ready
            assert isinstance(bus.driver, SqsDriver)
            found = await bus.driver.sqs.get_queue_url(QueueName=queue_name(Queue(queue)))
            await bus.driver.sqs.delete_queue(QueueUrl=found["QueueUrl"])
        return ready


# What a dead consumer held comes again when its lease has run out.
BOUNDS = Bounds(publish=15.0, redelivery=5.0 * LEASE, silence=float(LEASE), tells_all=False)
WRITTEN = "sqs://eu-west-1?endpoint={}"
OPTIONS = f"&lease={LEASE}&wait=1"

MOTO = Server("moto", SqsTools(), BOUNDS, options=OPTIONS, written=WRITTEN)
ELASTICMQ = Server("elasticmq", SqsTools(), BOUNDS, options=f"{OPTIONS}&topics=off", written=WRITTEN)

"""RabbitMQ, as the scenarios have to know it."""

from __future__ import annotations

from dataclasses import replace

import aio_pika

from tests.faults.server import Bounds, Server
from unibus import Queue


class RabbitTools:
    async def delete(self, url: str, queue: str) -> int:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            deleted = await channel.queue_delete(queue)
        return deleted.message_count or 0


BOUNDS = Bounds(
    # A quorum queue whose node is killed about a second after its declaration may come back without a leader.
    settle=25.0,
    # Of each level of the ladder the broker moves at most 32 messages at a time, and repeats those after a crash.
    # Delays of up to 6.3 s use six levels.
    in_transit=6 * 32,
    # A queue may have a leader before the routes from it are back. What it would move then it tries again only after
    # dead_letter_worker_publisher_confirm_timeout, and with 32 of those it moves nothing else till then.
    late=180.0,
)
UNDELIVERABLE = Queue("undeliverable", physical="unibus.undeliverable")

RABBITMQ_4 = Server("rabbitmq", RabbitTools(), BOUNDS, UNDELIVERABLE)
# Classic queues, by default: such a one has acks in memory until its next publishes make it write its journal.
RABBITMQ_3 = Server("rabbitmq-3", RabbitTools(), replace(BOUNDS, keeps_acks=False), UNDELIVERABLE)

"""The patterns of a group: what its queue is bound to, and what it was bound to before.

The broker tells nobody what a queue is bound to. So the patterns of the last declaration are kept
on the broker, as the one message of a queue beside the group's; while it is read nobody else has
it. Should it be missing, a binding that nobody wants any more stays: its messages become dead letters.
"""

from __future__ import annotations

import json

from aiormq import spec
from aiormq.abc import AbstractChannel

from unibus.driver import TopicSubscription
from unibus.errors import DestinationNotFound, TopologyMismatch
from unibus_rabbitmq.consuming import TOPICS
from unibus_rabbitmq.faults import told


def _record(source: TopicSubscription) -> str:
    return f"unibus.bindings.{source.group}"


def patterns(source: TopicSubscription) -> list[str]:
    """In the form of the record."""
    return sorted(set(source.patterns))


async def bind(channel: AbstractChannel, source: TopicSubscription) -> None:
    """To all its patterns."""
    async with told(f"binding {source}"):
        for pattern in patterns(source):
            await channel.queue_bind(source.name, TOPICS, pattern)


async def bind_group(channel: AbstractChannel, source: TopicSubscription) -> None:
    """Bind to all its patterns, then unbind from those of earlier."""
    record, wanted = _record(source), patterns(source)
    await bind(channel, source)
    async with told(f"binding {source}"):
        await channel.queue_declare(
            record, durable=True, arguments={"x-queue-type": "classic", "x-max-length": 1, "x-overflow": "drop-head"}
        )
        known = await channel.basic_get(record)
        before = _patterns(known.body) if _is_there(known.delivery) else []
        if before == wanted:
            await channel.basic_nack(known.delivery_tag or 0, requeue=True)
            return
        for pattern in set(before) - set(wanted):
            await channel.queue_unbind(source.name, TOPICS, pattern)
        if _is_there(known.delivery):
            await channel.basic_ack(known.delivery_tag or 0)
        await channel.basic_publish(
            json.dumps(wanted).encode(), routing_key=record, properties=spec.Basic.Properties(delivery_mode=2)
        )


async def check_bindings(channel: AbstractChannel, source: TopicSubscription) -> None:
    """Raises TopologyMismatch if the group was declared with other patterns."""
    before, wanted = await recorded(channel, source), patterns(source)
    if before and before != wanted:
        raise TopologyMismatch(
            f"{source} exists with patterns={before}, not patterns={wanted}; use those, or another name"
        )


async def recorded(channel: AbstractChannel, source: TopicSubscription) -> list[str]:
    """The patterns of the last declaration, or nothing."""
    try:
        async with told(f"looking at the patterns of {source}"):
            known = await channel.basic_get(_record(source))
            if not _is_there(known.delivery):
                return []
            await channel.basic_nack(known.delivery_tag or 0, requeue=True)
    except DestinationNotFound:
        return []
    return _patterns(known.body)


def _is_there(delivery: object) -> bool:
    return isinstance(delivery, spec.Basic.GetOk)


def _patterns(body: bytes) -> list[str]:
    """What it says comes from the broker, and may be anything."""
    try:
        found = json.loads(body)
    except ValueError:
        return []
    return sorted(map(str, found)) if isinstance(found, list) else []

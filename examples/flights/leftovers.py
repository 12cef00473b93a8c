"""What lies in queues and groups: to refuse what an earlier run left there, or to throw it away."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from unibus import Bus, Queue, TopicSubscription
from unibus.pull import Pull


class NotEmpty(Exception):
    """Something is left of an earlier run; the message says where, and what to do."""


async def depths(bus: Bus, sources: Sequence[Queue | TopicSubscription]) -> dict[str, int]:
    """How many messages lie in each: to be had, in somebody's hands, or delayed."""
    found = {}
    for source in sources:
        depth = await bus.depth(source)
        found[source.name] = depth.ready + (depth.in_flight or 0) + (depth.delayed or 0)
    return found


async def refuse_leftovers(bus: Bus, sources: Sequence[Queue | TopicSubscription]) -> None:
    """What is left of an earlier run would be counted in this one. Raises NotEmpty."""
    left = [f"{name} ({depth:,})" for name, depth in (await depths(bus, sources)).items() if depth]
    if left:
        raise NotEmpty(f"not empty: {', '.join(left)}; --purge throws away what is in there")


async def throw_away(bus: Bus, sources: Sequence[Queue | TopicSubscription]) -> None:
    """Empty the queues and groups, of delayed messages too once they are due."""
    for source in sources:
        async with _pull_anything(bus, source) as deliveries:
            while (await depths(bus, [source]))[source.name]:
                while (delivery := await deliveries.next(max_wait=0.5)) is not None:
                    await delivery.ack()


def _pull_anything(bus: Bus, source: Queue | TopicSubscription) -> AbstractAsyncContextManager[Pull[Any]]:
    if isinstance(source, Queue):
        return bus.pull(queue=source, type=bytes)
    return bus.pull(*source.patterns, group=source.group, type=bytes)

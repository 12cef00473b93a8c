"""Ordered groups, as those who publish without order have to know them.

SNS puts into an ordered queue only what was published in order. What is published otherwise would be confirmed and
never reach such a group, so that it is refused. The subscriptions of the ordered topic tell which groups there are, and
the filter of each says what it wants.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import Any

from unibus.driver import Clock, matches
from unibus.errors import DestinationNotFound, Rejected
from unibus_sqs import names
from unibus_sqs.clients import Clients
from unibus_sqs.wire import TOPIC

AGE = 10.0
"""Seconds after which those who publish look again: a new ordered group is known so late."""


class OrderedGroups:
    def __init__(self, clients: Clients, clock: Clock) -> None:
        self._clients = clients
        self._clock = clock
        self._patterns: dict[str, tuple[str, tuple[str, ...]]] = {}
        """By subscription: the queue, and what it wants."""
        self._until = 0.0
        self._looking = asyncio.Lock()

    def look_again(self) -> None:
        """At the next publish: we have made such a group ourselves."""
        self._until = 0.0

    async def refusals(self, topics: Iterable[str], standard: str) -> dict[str, Rejected]:
        """What to say for those topics that an ordered group wants. standard: the ARN of the unordered topic."""
        async with self._looking:
            if self._clock.monotonic() >= self._until:
                now = self._clock.monotonic()
                await self._look(standard + names.FIFO)
                self._until = now + AGE
        refused = {}
        for topic in set(topics):
            for queue, patterns in self._patterns.values():
                if any(matches(pattern, topic) for pattern in patterns):
                    refused[topic] = _refusal(topic, queue)
        return refused

    async def _look(self, ordered: str) -> None:
        found = {}
        async for one in self._subscriptions(ordered):
            arn, endpoint = str(one["SubscriptionArn"]), str(one["Endpoint"])
            if endpoint.endswith(names.FIFO) and arn.startswith("arn:"):
                found[arn] = self._patterns.get(arn) or (endpoint.rpartition(":")[2], await self._wanted(arn))
        self._patterns = found

    async def _subscriptions(self, ordered: str) -> AsyncIterator[Any]:
        page: dict[str, str] = {}
        while True:
            listing = partial(self._clients.sns.list_subscriptions_by_topic, TopicArn=ordered, **page)
            try:
                answer = await self._clients.ask("looking for ordered groups", listing)
            except DestinationNotFound:
                return  # nobody has made the ordered topic yet
            for one in answer.get("Subscriptions", ()):
                yield one
            if not answer.get("NextToken"):
                return
            page = {"NextToken": answer["NextToken"]}

    async def _wanted(self, arn: str) -> tuple[str, ...]:
        try:
            answer = await self._clients.ask(
                "looking at an ordered group",
                lambda: self._clients.sns.get_subscription_attributes(SubscriptionArn=arn),
            )
        except DestinationNotFound:
            return ()  # gone since it was listed
        rules = json.loads(answer["Attributes"].get("FilterPolicy") or "{}").get(TOPIC, ())
        return names.patterns_of(rules)


def _refusal(topic: str, queue: str) -> Rejected:
    return Rejected(
        f"topic {topic!r} is published without order, and queue {queue!r} belongs to a group that is ordered by key: "
        f'SNS would not deliver it there. Publish to Topic({topic!r}, ordering="key")'
    )

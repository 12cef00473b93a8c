"""Who subscribes to which topics: a hash from the stream of a group to its patterns, and a version beside it.

A publisher works with the copy that it read last. The script that publishes refuses an old one, so a
group gets all that is published after its declaration.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from unibus.driver import Outbound, TopicSubscription, matches
from unibus.errors import DriverError
from unibus_redis import scripts
from unibus_redis.calls import Argument, Calls
from unibus_redis.entries import fields_of

VERSION = "unibus.registry.version"
GROUPS = "unibus.registry"
QUEUES = "unibus.queues"

_READ = "return {redis.call('GET', KEYS[1]) or '0', redis.call('HGETALL', KEYS[2])}"
_TRIES = 20


@dataclass(frozen=True, slots=True)
class _Group:
    stream: str
    patterns: tuple[str, ...]
    lasting: bool


def described(subscription: TopicSubscription) -> str:
    """What is registered of a group: equal texts mean equal declarations."""
    return json.dumps(
        {
            "patterns": sorted(subscription.patterns),
            "ordering": subscription.ordering,
            "lasting": subscription.group is not None,
        },
        sort_keys=True,
    )


class Registry:
    """A publisher's copy."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._version = ""
        self._groups: list[_Group] = []
        self._targets: dict[str, list[int]] = {}

    async def publish(self, messages: Sequence[Outbound], connection: object) -> None:
        """Write each message into the stream of every group that it matches; all in one step of the server.

        `connection` is for the first call. Raises foreign errors of the client.
        """
        topics = [message.topic or "" for message in messages]
        for _ in range(_TRIES):
            keys = [VERSION, GROUPS, *(group.stream for group in self._groups)]
            arguments = self._arguments(messages, topics)
            if await self._calls.write(scripts.PUBLISH, keys, arguments, connection):
                return
            connection = None
            await self._load()
        raise DriverError(f"the groups changed {_TRIES} times while a batch was published", retryable=True)

    async def _load(self) -> None:
        version, pairs = await self._calls.write(_READ, [VERSION, GROUPS], [])
        groups = []
        for stream, text in zip(pairs[::2], pairs[1::2], strict=True):
            entry = json.loads(text)
            groups.append(_Group(stream.decode(), tuple(entry["patterns"]), entry["lasting"]))
        groups.sort(key=lambda group: not group.lasting)
        self._version, self._groups, self._targets = version.decode(), groups, {}

    def _arguments(self, messages: Sequence[Outbound], topics: Sequence[str]) -> list[Argument]:
        arguments: list[Argument] = [self._version, sum(group.lasting for group in self._groups)]
        for message, topic in zip(messages, topics, strict=True):
            targets = self._targets_of(topic)
            if targets:
                fields = fields_of(message, topic)
                arguments += [len(targets), *targets, len(fields), *fields]
        return arguments

    def _targets_of(self, topic: str) -> list[int]:
        found = self._targets.get(topic)
        if found is None:
            found = [
                place
                for place, group in enumerate(self._groups, 1)
                if any(matches(pattern, topic) for pattern in group.patterns)
            ]
            self._targets[topic] = found
        return found

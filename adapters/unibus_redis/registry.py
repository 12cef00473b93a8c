"""Who subscribes to which topics: a hash from the stream of a group to its patterns, and a version beside it.

A publisher works with the copy that it read last. The script that publishes refuses an old one, so a
group gets all that is published after its declaration.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unibus.driver import Outbound, TopicSubscription, matches
from unibus_redis import context, scripts
from unibus_redis.calls import Calls
from unibus_redis.entries import fields_of, is_plain
from unibus_redis.failures import Unreached
from unibus_redis.keys import GROUPS, VERSION
from unibus_redis.link import Argument, Command

_TRIES = 20
_TOPICS = 4096
"""Topics whose groups are remembered."""


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
        self._targets: dict[str, tuple[int, ...]] = {}

    async def publish(
        self, messages: Sequence[Outbound], default: str, tail: Sequence[Command], waits: float
    ) -> list[Any]:
        """Write each message into the stream of every group that it matches; all in one step of the server.

        default: the topic of messages that name none. tail: what to ask in the same breath, whose answers are
        returned. Raises Unreached and foreign errors of the client.
        """
        for _ in range(_TRIES):
            keys, arguments = self._run(messages, default)
            call = scripts.PUBLISH.call(keys, arguments)
            answer, *others = await self._calls.request(VERSION, [call, *tail], scripts.PUBLISH, waits)
            if answer:
                return others
            await self._load()
        raise Unreached(Exception(f"the groups changed {_TRIES} times while a batch was published"))

    async def _load(self) -> None:
        version, pairs = await self._calls.request(VERSION, [("GET", VERSION), ("HGETALL", GROUPS)])
        groups = []
        for stream, text in zip(pairs[::2], pairs[1::2], strict=True):
            entry = json.loads(text)
            groups.append(_Group(stream.decode(), tuple(entry["patterns"]), entry["lasting"]))
        groups.sort(key=lambda group: not group.lasting)
        self._version, self._groups, self._targets = (version or b"0").decode(), groups, {}

    def _run(self, messages: Sequence[Outbound], default: str) -> tuple[list[str], list[Argument]]:
        """Messages in a row for the same streams share their addresses."""
        runs: list[Argument] = []
        targets: tuple[int, ...] | None = None
        plain: list[Argument] = []
        topics = [message.topic or default for message in messages]
        used = sorted({target for topic in set(topics) for target in self._targets_of(topic)})
        places = {target: place for place, target in enumerate(used, 1)}
        for message, topic in zip(messages, topics, strict=True):
            found = self._targets_of(topic)
            if not found:
                continue
            if found is not targets or not is_plain(message):
                _end(runs, targets, plain, places)
                targets, plain = found, []
            if is_plain(message):
                plain += [context.write(message, topic), message.body or b""]
            else:
                fields = fields_of(message, topic)
                runs += [len(found), *[places[target] for target in found], 0, len(fields), *fields]
        _end(runs, targets, plain, places)
        streams = [self._groups[target].stream for target in used]
        lasting = sum(self._groups[target].lasting for target in used)
        return [VERSION, GROUPS, *streams], [self._version, lasting, *runs]

    def _targets_of(self, topic: str) -> tuple[int, ...]:
        found = self._targets.get(topic)
        if found is None:
            if len(self._targets) >= _TOPICS:
                self._targets.clear()
            found = self._targets[topic] = tuple(
                place
                for place, group in enumerate(self._groups)
                if any(matches(pattern, topic) for pattern in group.patterns)
            )
        return found


def _end(runs: list[Argument], targets: tuple[int, ...] | None, plain: list[Argument], places: dict[int, int]) -> None:
    if targets and plain:
        runs += [len(targets), *[places[target] for target in targets], len(plain) // 2, *plain]

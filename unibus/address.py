"""Where messages go to and come from: queues, topics, and a group's subscription to topics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from unibus.errors import ConfigurationError
from unibus.names import DEAD_LETTER_SUFFIX, check_name, check_pattern, matches

Ordering: TypeAlias = Literal["none", "key"]
Start: TypeAlias = Literal["new", "earliest"]


def _check_options(what: str, ordering: str, partitions: int | None) -> None:
    if ordering not in ("none", "key"):
        raise ConfigurationError(f'{what}: ordering={ordering!r} is unknown; use "none" or "key"')
    if partitions is not None and partitions < 1:
        raise ConfigurationError(f"{what}: partitions={partitions} is not at least 1")


@dataclass(frozen=True, slots=True)
class Queue:
    """Each message of a queue goes to one consumer.

    ordering: "key" keeps messages of one key in the order in which they were sent. It belongs to
        the address, since producer and consumer must agree on it.
    partitions: how many to create, where the broker has them; None is the driver's default.
    physical: the broker's own name of a queue that exists already; None derives it from `name`.
    """

    name: str
    ordering: Ordering = "none"
    partitions: int | None = None
    physical: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "queue")
        _check_options(f"queue {self.name!r}", self.ordering, self.partitions)

    @property
    def dead_letters(self) -> Queue:
        """The default queue for the dead letters of this one."""
        return Queue(self.name + DEAD_LETTER_SUFFIX)

    @property
    def is_dead_letters(self) -> bool:
        return self.name.endswith(DEAD_LETTER_SUFFIX)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Topic:
    """Each group that subscribes to a topic gets every message published to it.

    ordering: say "key" where the broker's topic itself must be ordered for a group to be.
    """

    name: str
    ordering: Ordering = "none"
    partitions: int | None = None
    physical: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "topic")
        _check_options(f"topic {self.name!r}", self.ordering, self.partitions)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class TopicSubscription:
    """One group's interest in topics; without a group it is ephemeral.

    A subscription with a group can be sent to: that group alone gets the message.
    start: "new" begins with what is published after the group was first declared, "earliest" with
        all that the broker still keeps (a capability).
    """

    patterns: tuple[str, ...]
    group: str | None = None
    ordering: Ordering = "none"
    start: Start = "new"

    def __post_init__(self) -> None:
        if not self.patterns:
            raise ConfigurationError("a subscription needs at least one topic or pattern")
        for pattern in self.patterns:
            check_pattern(pattern)
        if self.group is not None:
            check_name(self.group, "group")
        _check_options(f"subscription {self}", self.ordering, None)
        if self.start not in ("new", "earliest"):
            raise ConfigurationError(f'{self}: start={self.start!r} is unknown; use "new" or "earliest"')

    @property
    def name(self) -> str:
        """The name of the group's own queue, or of the patterns where there is no group."""
        return f"unibus.group.{self.group}" if self.group is not None else ",".join(self.patterns)

    @property
    def dead_letters(self) -> Queue:
        """The default queue for the dead letters of this group."""
        return Queue(self.name + DEAD_LETTER_SUFFIX)

    def matches(self, topic: str) -> bool:
        return any(matches(pattern, topic) for pattern in self.patterns)

    def __str__(self) -> str:
        return f"group {self.group}" if self.group is not None else f"subscription to {', '.join(self.patterns)}"


Source: TypeAlias = Queue | TopicSubscription
"""What can be consumed."""

Address: TypeAlias = Queue | Topic | TopicSubscription
"""What can be sent to (a subscription only with a group)."""

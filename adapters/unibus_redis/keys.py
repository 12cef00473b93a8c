"""How our keys are called. What belongs to one stream lies in the same slot of a cluster as that."""

from __future__ import annotations

import re

from unibus.driver import Queue, TopicSubscription

TAG = "{unibus}"
"""Of all that topics need: the script that publishes writes into the streams of all groups, so they share a slot."""

VERSION = f"{TAG}.version"
GROUPS = f"{TAG}.groups"
"""Which streams get what is published: a hash from a stream to the description of its group."""

DELAYED_STREAMS = "unibus.delayed"
"""A set of the streams for which something was ever delayed, for those who forward it all."""

_TAGGED = re.compile(r"\{[^}]+\}")


def beside(kind: str, stream: str) -> str:
    """The key of something that a stream has: `unibus.delayed.{orders}` of the stream `orders`."""
    return f"unibus.{kind}:{stream}" if _TAGGED.search(stream) else f"unibus.{kind}.{{{stream}}}"


def delayed(stream: str) -> str:
    """A sorted set: messages by the time when they are due."""
    return beside("delayed", stream)


def active(stream: str) -> str:
    """Who consumes from an ordered stream, for as long as it says so."""
    return beside("active", stream)


def declared(stream: str) -> str:
    """What a queue was declared with."""
    return beside("queue", stream)


def of_queue(queue: Queue) -> str:
    return queue.physical or queue.name


def of_group(subscription: TopicSubscription) -> str:
    return f"{TAG}.group.{subscription.group}"


def of_parked(subscription: TopicSubscription) -> str:
    """Where a group that listens to channels keeps what has failed."""
    return f"{TAG}.parked.{subscription.group}"


def of_ephemeral(unique: str) -> str:
    return f"{TAG}.ephemeral.{unique}"


def won(group: str, publish_id: str) -> str:
    """That a member of a group has taken a message of a channel."""
    return f"{TAG}.won.{group}.{publish_id}"

"""SNS: one standard and one ordered topic for all topics of a bus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unibus.driver import Clock
from unibus.errors import DestinationNotFound, NotSent
from unibus_sqs import names
from unibus_sqs.clients import Clients
from unibus_sqs.options import Options


class Topics:
    """Made at first use, since a program that only has queues may lack the right to SNS.

    back_within: seconds after which groups have found out that their subscriptions are gone, and subscribed again.
    """

    def __init__(self, clients: Clients, clock: Clock, back_within: float) -> None:
        self._clients = clients
        self._clock = clock
        self._back_within = back_within
        self._arns: dict[bool, str] = {}
        self._groups_are_back: dict[bool, float] = {}

    async def arn(self, ordered: bool) -> str:
        if ordered not in self._arns:
            name = topic_name(ordered)
            attributes = {"FifoTopic": "true", "ContentBasedDeduplication": "false"} if ordered else {}
            made = await self._clients.ask(
                f"creating topic {name!r}", lambda: self._clients.sns.create_topic(Name=name, Attributes=attributes)
            )
            self._arns[ordered] = made["TopicArn"]
        return self._arns[ordered]

    def forget(self, ordered: bool) -> None:
        self._arns.pop(ordered, None)

    async def publish(self, arn: str, entries: list[Any]) -> Any:
        """As the client answers."""
        return await self._clients.in_time(
            self._clients.sns.publish_batch(TopicArn=arn, PublishBatchRequestEntries=entries)
        )

    def deleted(self, ordered: bool) -> NotSent | None:
        """The error for what is published while a topic that somebody deleted has no subscriptions: it would be taken
        and reach nobody."""
        left = self._groups_are_back.get(ordered, 0.0) - self._clock.monotonic()
        if left <= 0:
            return None
        return NotSent(
            f"somebody has deleted topic {topic_name(ordered)!r} of SNS; its groups subscribe again within "
            f"{left:.0f} s. Nothing was stored, send it again then"
        )

    def found_deleted(self, ordered: bool, errors: dict[int, Exception]) -> dict[int, Exception]:
        """The errors of a call, where they say that the topic is gone."""
        if not any(isinstance(error, DestinationNotFound) for error in errors.values()):
            return errors
        self.forget(ordered)
        self._groups_are_back[ordered] = self._clock.monotonic() + self._back_within
        told = self.deleted(ordered)
        return {
            place: told if told is not None and isinstance(error, DestinationNotFound) else error
            for place, error in errors.items()
        }


def back_within(options: Options) -> float:
    """A group looks at one of its two subscriptions at a time, and not while a poll waits."""
    return 2 * (options.topic_check + options.wait) + options.timeout


def topic_name(ordered: bool) -> str:
    return names.TOPIC + (names.FIFO if ordered else "")


def heard(ordered: bool) -> Sequence[bool]:
    """Which topics a group hears: True is the ordered one. An ordered queue takes from that alone, which is SNS's rule;
    any other takes from both."""
    return (True,) if ordered else (False, True)

"""Groups: a queue that is subscribed to the topics of the bus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from unibus.driver import TopicSubscription
from unibus.errors import DestinationNotFound, DriverError, TopologyMismatch
from unibus_sqs import names
from unibus_sqs.clients import Clients
from unibus_sqs.queues import Queues
from unibus_sqs.topics import Topics, heard
from unibus_sqs.wire import TOPIC

_PATTERNS = "unibus-patterns"


class Groups:
    """Remembers the subscriptions, to find out when one is gone: SNS tells nobody."""

    def __init__(self, clients: Clients, queues: Queues, topics: Topics) -> None:
        self._clients = clients
        self._queues = queues
        self._topics = topics
        self._subscriptions: dict[TopicSubscription, dict[bool, str]] = {}
        self._turn = 0

    async def join(self, group: TopicSubscription, url: str) -> None:
        """What is published from now on and passes the filter is put into the group's queue."""
        await self.check_patterns(group, url)
        arn = await self._queues.arn(url)
        await self._let_in(group, url, arn)
        made = {ordered: await self._subscribe(group, arn, ordered) for ordered in heard(group.ordering == "key")}
        self._subscriptions[group] = made
        tags = {_PATTERNS: names.as_tag(group.patterns)}
        await self._clients.ask(f"tagging {group}", lambda: self._clients.sqs.tag_queue(QueueUrl=url, Tags=tags))

    async def check_patterns(self, group: TopicSubscription, url: str) -> None:
        """Raises TopologyMismatch if the group exists with others."""
        wanted = names.as_tag(group.patterns)
        answer = await self._clients.ask(f"looking at {group}", lambda: self._clients.sqs.list_queue_tags(QueueUrl=url))
        there = answer.get("Tags", {}).get(_PATTERNS, wanted)
        if there != wanted:
            raise TopologyMismatch(
                f"{group} exists with the patterns {there!r}, not {wanted!r} (`*` is written @one, "
                "`#` @any); use another name for the group, or delete its queue and its subscription"
            )

    async def rejoined(self, group: TopicSubscription, url: str) -> bool:
        """Whether one of its subscriptions was gone, so that it may have missed something. Looks at one at a time: an
        idle consumer costs money."""
        made = self._subscriptions.get(group)
        if made is None:
            return False
        self._turn += 1
        ordered, arn = list(made.items())[self._turn % len(made)]
        try:
            await self._clients.ask(
                f"looking at the subscription of {group}",
                lambda: self._clients.sns.get_subscription_attributes(SubscriptionArn=arn),
            )
        except DestinationNotFound:
            self._topics.forget(ordered)
            await self.join(group, url)
            return True
        return False

    async def _let_in(self, group: TopicSubscription, url: str, arn: str) -> None:
        """Adds to a queue's policy that the topics of the bus, and no others, may write to it."""
        policy = policy_with((await self._queues.attributes(url, "Policy")).get("Policy"), arn)
        if policy is not None:
            await self._clients.ask(
                f"letting SNS write to the queue of {group}",
                lambda: self._clients.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy}),
            )

    async def _subscribe(self, group: TopicSubscription, queue_arn: str, ordered: bool) -> str:
        topic = await self._topics.arn(ordered)
        rules = names.filter_of(group.patterns)
        if group.ordering == "key":
            rules = [*rules, names.as_rule(group.patterns)]
        attributes = {"RawMessageDelivery": "true", "FilterPolicy": json.dumps({TOPIC: rules})}
        try:
            made = await self._clients.ask(
                f"subscribing {group}",
                lambda: self._clients.sns.subscribe(
                    TopicArn=topic, Protocol="sqs", Endpoint=queue_arn, Attributes=attributes,
                    ReturnSubscriptionArn=True,
                ),
            )  # fmt: skip
        except DestinationNotFound:
            self._topics.forget(ordered)  # the next time it is made anew
            raise
        except DriverError as error:
            if "already exists" not in str(error):
                raise
            raise TopologyMismatch(
                f"{group} is subscribed to {topic} in another way than this release does it (raw delivery, and a "
                "filter on the topic's name); delete that subscription"
            ) from error
        return str(made["SubscriptionArn"])


def policy_with(existing: str | None, queue_arn: str) -> str | None:
    """The policy with our statement in it; None if it is there. What others have written stays."""
    topics = f"{queue_arn.rsplit(':', 1)[0].replace(':sqs:', ':sns:', 1)}:{names.TOPIC}"
    ours = {
        "Sid": "unibus",
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnEquals": {"aws:SourceArn": [topics, topics + names.FIFO]}},
    }
    policy: dict[str, Any] = json.loads(existing) if existing else {"Version": "2012-10-17"}
    statements = policy.get("Statement", [])
    others: Sequence[Any] = [statements] if isinstance(statements, dict) else statements
    if ours in others:
        return None
    kept = [one for one in others if one.get("Sid") != ours["Sid"]]
    return json.dumps({**policy, "Statement": [*kept, ours]})

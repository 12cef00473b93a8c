"""SNS: one standard and one ordered topic for all topics of a bus, and a queue for each group."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError

from unibus.driver import TopicSubscription
from unibus.errors import TopologyMismatch
from unibus_sqs import names
from unibus_sqs.clients import Clients
from unibus_sqs.failures import code_of, translated
from unibus_sqs.queues import Queues
from unibus_sqs.wire import TOPIC

_PATTERNS = "unibus-patterns"


class Topics:
    """Made at first use, since a program that only has queues may lack the right to SNS."""

    def __init__(self, clients: Clients, queues: Queues) -> None:
        self._clients = clients
        self._queues = queues
        self._arns: dict[bool, str] = {}

    async def join(self, group: TopicSubscription, url: str) -> None:
        """What is published from now on and passes the filter is put into the group's queue.

        An ordered queue takes from the ordered topic alone, which is SNS's rule; any other takes from both.
        """
        wanted = names.as_tag(group.patterns)
        with translated(f"subscribing {group}"):
            await self._check_patterns(group, url, wanted)
            arn = await self._queues.arn(url)
            await self._let_in(url, arn)
            for ordered in (True,) if group.ordering == "key" else (False, True):
                await self._subscribe(group, arn, ordered)
            await self._clients.sqs.tag_queue(QueueUrl=url, Tags={_PATTERNS: wanted})

    async def publish(self, entries: list[Any], *, ordered: bool) -> Any:
        """As the client answers. A topic that somebody has deleted is made anew."""
        try:
            return await self._publish(entries, ordered)
        except ClientError as error:
            if code_of(error) not in ("NotFound", "NotFoundException"):
                raise
        self._arns.pop(ordered, None)
        return await self._publish(entries, ordered)

    async def _publish(self, entries: list[Any], ordered: bool) -> Any:
        arn = await self._arn(ordered)
        return await self._clients.sns.publish_batch(TopicArn=arn, PublishBatchRequestEntries=entries)

    async def _check_patterns(self, group: TopicSubscription, url: str, wanted: str) -> None:
        tags = (await self._clients.sqs.list_queue_tags(QueueUrl=url)).get("Tags", {})
        if tags.get(_PATTERNS, wanted) != wanted:
            raise TopologyMismatch(
                f"{group} exists with the patterns {tags[_PATTERNS]!r}, not {wanted!r} (`*` is written @one, "
                "`#` @any); use another name for the group, or delete its queue and its subscription"
            )

    async def _let_in(self, url: str, arn: str) -> None:
        """Adds to a queue's policy that the topics of the bus, and no others, may write to it."""
        answer = await self._clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])
        policy = policy_with(answer.get("Attributes", {}).get("Policy"), arn)
        if policy is not None:
            await self._clients.sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": policy})

    async def _subscribe(self, group: TopicSubscription, queue_arn: str, ordered: bool) -> None:
        await self._clients.sns.subscribe(
            TopicArn=await self._arn(ordered),
            Protocol="sqs",
            Endpoint=queue_arn,
            Attributes={
                "RawMessageDelivery": "true",
                "FilterPolicy": json.dumps({TOPIC: names.filter_of(group.patterns)}),
            },
            ReturnSubscriptionArn=True,
        )

    async def _arn(self, ordered: bool) -> str:
        if ordered not in self._arns:
            name = names.TOPIC + (names.FIFO if ordered else "")
            attributes = {"FifoTopic": "true", "ContentBasedDeduplication": "false"} if ordered else {}
            made = await self._clients.sns.create_topic(Name=name, Attributes=attributes)
            self._arns[ordered] = made["TopicArn"]
        return self._arns[ordered]


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

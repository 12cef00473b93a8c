"""SNS: one standard and one ordered topic for all topics of a bus, and a queue for each group."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from unibus.driver import Outbound, TopicSubscription
from unibus_sqs import names
from unibus_sqs.failures import FOREIGN, of_entry, of_send
from unibus_sqs.wire import entry_of


class Topics:
    """Made at first use, since a program that only has queues may lack the right to SNS."""

    def __init__(self, sns: Any) -> None:
        self._sns = sns
        self._arns: dict[bool, str] = {}

    async def connect(self, group: TopicSubscription, queue_arn: str) -> None:
        """What is published from now on and passes the filter is put into the group's queue."""
        await self._sns.subscribe(
            TopicArn=await self._arn(group.ordering == "key"),
            Protocol="sqs",
            Endpoint=queue_arn,
            Attributes={
                "RawMessageDelivery": "true",
                "FilterPolicy": json.dumps({"unibus-topic": names.filter_of(group.patterns)}),
            },
            ReturnSubscriptionArn=True,
        )

    async def publish(self, messages: Sequence[tuple[int, Outbound]], topics: Sequence[str], *, ordered: bool) -> Any:
        """Returns errors by place."""
        entries = [
            entry_of(message, place, topic, body="Message", ordered=ordered, direct=False)
            for (place, message), topic in zip(messages, topics, strict=True)
        ]
        try:
            answer = await self._sns.publish_batch(
                TopicArn=await self._arn(ordered), PublishBatchRequestEntries=entries
            )
        except FOREIGN as error:
            return dict.fromkeys((place for place, _ in messages), of_send(error))
        return {int(failed["Id"]): of_entry(failed) for failed in answer.get("Failed", ())}

    async def _arn(self, ordered: bool) -> str:
        if ordered not in self._arns:
            name = names.TOPIC + (names.FIFO if ordered else "")
            attributes = {"FifoTopic": "true", "ContentBasedDeduplication": "false"} if ordered else {}
            made = await self._sns.create_topic(Name=name, Attributes=attributes)
            self._arns[ordered] = made["TopicArn"]
        return self._arns[ordered]


def policy_for(queue_arn: str, account_topics: str) -> str:
    """Lets the topics of the bus write to the queue, and nobody else."""
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {"ArnLike": {"aws:SourceArn": account_topics}},
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})

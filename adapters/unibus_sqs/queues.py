"""Queues: where they are, making them, and what must not differ in those that exist."""

from __future__ import annotations

import json
from typing import Any

from unibus.driver import Depth, Source
from unibus.errors import DestinationNotFound, TopologyMismatch
from unibus_sqs import names
from unibus_sqs.clients import Clients
from unibus_sqs.limits import RETENTION

LEAST_RECEIVES = 10
"""Of a redrive policy that somebody has set. What unibus finds out about a message that kills its process takes six
receives on an ordered queue; each release, restart and lost lease is one more."""

_QUEUE = {"MessageRetentionPeriod": str(RETENTION)}
_FIFO = {"FifoQueue": "true", "DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}
_DEPTH = {
    "ready": "ApproximateNumberOfMessages",
    "in_flight": "ApproximateNumberOfMessagesNotVisible",
    "delayed": "ApproximateNumberOfMessagesDelayed",
}


class Queues:
    """Remembers the URLs of queues. A name that is gone is forgotten when a call says so."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._urls: dict[str, str] = {}

    async def url(self, source: Source) -> str:
        """Raises DestinationNotFound."""
        return await self._url_of(names.queue_name(source))

    def forget(self, source: Source) -> None:
        self._urls.pop(names.queue_name(source), None)

    async def verify(self, source: Source) -> None:
        """Raises DestinationNotFound, or TopologyMismatch if it has the other ordering."""
        try:
            await self.url(source)
        except DestinationNotFound:
            await self._refuse_other(source)
            raise

    async def create(self, source: Source) -> str:
        """Returns the URL. What exists is taken as it is, whatever an operator has set, but for its order."""
        await self._refuse_other(source)
        try:
            url = await self.url(source)
        except DestinationNotFound:
            url = await self._make(source)
        return url

    async def arn(self, url: str) -> str:
        return str((await self.attributes(url, "QueueArn"))["QueueArn"])

    async def depth(self, source: Source) -> Depth:
        try:
            answer = await self.attributes(await self.url(source), *_DEPTH.values())
        except DestinationNotFound:
            self.forget(source)
            raise
        return Depth(**{ours: int(answer[theirs]) for ours, theirs in _DEPTH.items()})

    async def _make(self, source: Source) -> str:
        name = names.queue_name(source)
        attributes = {**_QUEUE, **(_FIFO if source.ordering == "key" else {})}
        made = await self._clients.ask(
            f"creating queue {name!r}", lambda: self._clients.sqs.create_queue(QueueName=name, Attributes=attributes)
        )
        self._urls[name] = made["QueueUrl"]
        return str(made["QueueUrl"])

    async def _refuse_other(self, source: Source) -> None:
        """The other ordering is another queue for SQS, and a mistake for us."""
        other = names.other_name(source)
        try:
            await self._url_of(other)
        except DestinationNotFound:
            return
        raise TopologyMismatch(f"{source} exists as queue {other!r}, with the other ordering; use one of them")

    async def check_redrive(self, source: Source) -> None:
        """Before it is consumed. A policy of SQS counts give-backs like failures, and would take healthy messages."""
        policy = (await self.attributes(await self.url(source), "RedrivePolicy")).get("RedrivePolicy")
        most = _max_receives(policy)
        if most is not None and most < LEAST_RECEIVES:
            raise TopologyMismatch(
                f"queue {names.queue_name(source)!r} has a redrive policy with maxReceiveCount={most}, which also "
                f"counts releases and restarts; set it to {LEAST_RECEIVES} at least, or remove the policy: "
                "unibus keeps dead letters itself"
            )

    async def attributes(self, url: str, *wanted: str) -> Any:
        answer = await self._clients.ask(
            f"looking at queue {url.rpartition('/')[2]!r}",
            lambda: self._clients.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(wanted)),
        )
        return answer.get("Attributes", {})

    async def _url_of(self, name: str) -> str:
        if name not in self._urls:
            found = await self._clients.ask(
                f"looking for queue {name!r}", lambda: self._clients.sqs.get_queue_url(QueueName=name)
            )
            self._urls[name] = found["QueueUrl"]
        return self._urls[name]


def _max_receives(policy: str | None) -> int | None:
    if not policy:
        return None
    try:
        return int(json.loads(policy)["maxReceiveCount"])
    except (ValueError, KeyError, TypeError):
        return None

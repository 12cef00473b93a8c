"""A consumer of one queue: a task that polls, and what it holds."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from unibus.driver import (
    Clock,
    Delivery,
    Disconnected,
    DriverEvent,
    Inbox,
    Lost,
    Outcome,
    Reconnected,
    Source,
    TopicSubscription,
)
from unibus.errors import ConnectionLost, DriverError, SettlementLost
from unibus_sqs.failures import translated
from unibus_sqs.options import BATCH, MAX_HOLD, Options
from unibus_sqs.wire import Handle, delivery_of

_STALE = {"ReceiptHandleIsInvalid", "MessageNotInflight", "InvalidParameterValue"}


class SqsSubscription:
    """A poll is never cancelled but by a kill: what it takes would be invisible for a lease, with nobody."""

    def __init__(
        self,
        source: Source,
        url: str,
        sqs: Any,
        options: Options,
        prefetch: int,
        notify: Callable[[DriverEvent], None],
        clock: Clock,
    ) -> None:
        self.source = source
        self.inbox = Inbox(str(source), prefetch, clock)
        self.notify = notify
        self._url = url
        self._sqs = sqs
        self._lease = options.lease
        self._wait = options.wait
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"unibus sqs {self.source}")

    # --- the seam -------------------------------------------------------------------------------------

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Delivery]:
        return await self.inbox.receive(max_messages, max_wait)

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        self.inbox.check_connected()
        ours, stale = self.inbox.begin(deliveries)
        try:
            for part in _parts(ours):
                if outcome is Outcome.NACK:
                    stale += len(await self._change(part, math.ceil(delay)))
                else:
                    stale += await self._delete(part)
        except BaseException:
            self.inbox.failed(ours)
            raise
        self.inbox.done(ours)
        if stale:
            raise SettlementLost(
                f"{stale} of {len(deliveries)} deliveries of {self.source} were not ours any more", count=stale
            )

    async def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Implements LeaseExtender."""
        self.inbox.check_connected()
        held, ready = self.inbox.held, set(self.inbox.ready)
        for part in _parts([one for one in deliveries if one in held or one in ready]):
            whole = max(1, math.ceil(seconds))
            expires = self._clock.monotonic() + whole
            gone = await self._change(part, whole)
            for delivery in part:
                if isinstance(delivery.token, Handle):
                    delivery.token.expires = min(expires, delivery.token.limit)
            self._lose(gone)

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        left = self.inbox.end()
        if self._task is not None:
            await asyncio.wait({self._task})
        left += self.inbox.ready  # what the last poll brought
        self.inbox.ready.clear()
        try:
            for part in _parts(left):
                await self._change(part, 0)
        except DriverError:
            return  # the lease ends by itself

    async def cut_off(self, reason: Exception) -> None:
        """Nothing is given back, and nobody is told."""
        self._closing = True
        self.inbox.end(reason)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    # --- calls ----------------------------------------------------------------------------------------

    async def _delete(self, deliveries: Sequence[Delivery]) -> int:
        entries = [{"Id": str(n), "ReceiptHandle": one.token.receipt} for n, one in enumerate(deliveries)]
        with translated(f"settling at {self.source}"):
            answer = await self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
        return len(_stale(answer))

    async def _change(self, deliveries: Sequence[Delivery], seconds: int) -> list[Delivery]:
        """Make them invisible for so long from now on; returns those that are not ours any more."""
        entries = [
            {"Id": str(n), "ReceiptHandle": one.token.receipt, "VisibilityTimeout": seconds}
            for n, one in enumerate(deliveries)
        ]
        with translated(f"changing leases at {self.source}"):
            answer = await self._sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)
        return [deliveries[place] for place in _stale(answer)]

    # --- the task -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while not self._closing:
            try:
                await self._cycle()
                if failures:
                    self.notify(Reconnected())
                failures = 0
            except DriverError as error:
                if not failures:
                    self.notify(Disconnected(str(error)))
                failures += 1
                await self._clock.sleep(min(0.05 * 2**failures, 5.0))

    async def _cycle(self) -> None:
        await self._keep_ready()
        self._expire()
        if self.inbox.wanted <= 0:
            await self.inbox.wait_until_wanted(self._lease / 4)
            return
        with translated(f"polling {self.source}"):
            answer = await self._sqs.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=min(BATCH, self.inbox.wanted),
                VisibilityTimeout=self._lease,
                WaitTimeSeconds=self._poll_time(),
                MessageAttributeNames=["All"],
                AttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
            )
        await self._accept(answer.get("Messages", ()))

    def _poll_time(self) -> int:
        """Short while something is held, whose lease may end meanwhile."""
        return min(self._wait, max(0, self._lease // 4)) if self.inbox.held else self._wait

    async def _accept(self, messages: Iterable[Any]) -> None:
        now = self._clock.monotonic()
        unmatched = []
        for raw in messages:
            delivery, direct = delivery_of(raw, self.source, now + self._lease, now + MAX_HOLD - 600)
            if direct or not isinstance(self.source, TopicSubscription) or self.source.matches(delivery.address):
                self.inbox.put([delivery])
            else:
                unmatched.append(delivery)  # the broker's filter is coarser than the patterns
        if unmatched:
            await self._delete(unmatched)

    async def _keep_ready(self) -> None:
        """The core renews what it has received; what waits here is ours to renew."""
        soon = self._clock.monotonic() + self._lease * 2 / 3
        waiting = [delivery for delivery in self.inbox.ready if delivery.token.expires < soon]
        if waiting:
            await self.extend(waiting, self._lease)

    def _expire(self) -> None:
        now = self._clock.monotonic()
        self._lose([one for one in (*self.inbox.held, *self.inbox.ready) if one.token.expires <= now])

    def _lose(self, deliveries: Sequence[Delivery]) -> None:
        told = self.inbox.lose(deliveries)
        if told:
            self.notify(Lost(told))


def _parts(deliveries: Sequence[Delivery]) -> Iterable[Sequence[Delivery]]:
    for start in range(0, len(deliveries), BATCH):
        yield deliveries[start : start + BATCH]


def _stale(answer: Any) -> list[int]:
    """The places of those whose handle is void. Any other failure is raised."""
    stale = []
    for failed in answer.get("Failed", ()):
        if failed.get("Code") not in _STALE:
            raise ConnectionLost(f"{failed.get('Code')}: {failed.get('Message')}")
        stale.append(int(failed["Id"]))
    return stale

"""A consumer of one queue: what it holds, and until when."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from unibus.driver import (
    Clock,
    Delivery,
    DriverEvent,
    Gap,
    Inbox,
    Lost,
    Outcome,
    Recreated,
    Source,
    Timer,
    TopicSubscription,
)
from unibus.errors import DriverError, SettlementLost
from unibus_sqs.batching import Batches
from unibus_sqs.clients import Clients
from unibus_sqs.limits import END_OF_HOLD
from unibus_sqs.options import Options
from unibus_sqs.polling import SHORT_PAUSE, Polling
from unibus_sqs.settling import Settled, settle
from unibus_sqs.wire import Received, received_of, sent_on

LOOKS = 6
"""How often in a lease we look for leases that end."""


class SqsSubscription:
    """Made by the driver. restore: makes the queue anew if it is ours to make; returns its URL, else raises.
    rejoined: whether a group had to be subscribed to its topics again."""

    def __init__(
        self,
        source: Source,
        url: str,
        prefetch: int,
        notify: Callable[[DriverEvent], None],
        *,
        clients: Clients,
        options: Options,
        batches: Batches,
        restore: Callable[[], Awaitable[tuple[str, bool]]],
        rejoined: Callable[[str], Awaitable[bool]],
        clock: Clock,
    ) -> None:
        self.source = source
        self.inbox = Inbox(str(source), prefetch, clock)
        self._url = url
        self._notify = notify
        self._clients = clients
        self._options = options
        self._batches = batches
        self._restore_queue = restore
        self._rejoined = rejoined
        self._check_at = clock.monotonic() + options.topic_check
        self._clock = clock
        self._ordered = source.ordering == "key"
        pause = 0.0 if options.wait else SHORT_PAUSE
        # The answers of two polls may come in another order than the messages were taken.
        polls = 1 if self._ordered else options.polls
        self._polling = Polling(
            self.inbox, self._receive, self._accept, self._restore, notify, clock, pause=pause, polls=polls
        )
        self._timer: Timer | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        self._polling.start(str(self.source))
        self._look_later()

    # --- the seam -------------------------------------------------------------------------------------

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Delivery]:
        return await self.inbox.receive(max_messages, max_wait)

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        self.inbox.check_connected()
        self._expire()
        ours, stale = self.inbox.begin(deliveries)
        try:
            if outcome is Outcome.NACK:
                settled = await self._make_visible(ours, delay)
            else:
                settled = await self._delete(ours)
        except BaseException:
            self.inbox.failed(ours)
            raise
        self.inbox.failed(settled.failed)
        self.inbox.done([*settled.done, *settled.stale])
        if settled.why is not None:
            raise settled.why
        stale += len(settled.stale)
        if stale:
            raise SettlementLost(
                f"{stale} of {len(deliveries)} deliveries of {self.source} were not ours any more", count=stale
            )

    async def extend(self, deliveries: Sequence[Delivery], seconds: float) -> None:
        """Implements LeaseExtender. What SQS would take away at twelve hours is lost a little before."""
        self.inbox.check_connected()
        self._expire()
        held, ready = self.inbox.held, set(self.inbox.ready)
        ours = [one for one in deliveries if one in held or one in ready]
        now = self._clock.monotonic()
        whole = max(1, math.ceil(seconds))

        def seconds_of(delivery: Delivery) -> int:
            return max(1, self._allowed(delivery, whole))

        extended = await settle(
            ours, self._change, doing=f"renewing leases of {self.source}", clock=self._clock, seconds=seconds_of
        )
        for delivery in extended.done:
            if not isinstance(delivery.token, str):
                delivery.token.expires = min(now + whole, delivery.token.limit)
        self._lose(extended.stale)
        if extended.why is not None:
            raise extended.why

    async def hold_at_most(self, deliveries: int) -> None:
        """Implements Narrowing: none, and polls in flight end, so that the core sees what they bring. Given back unseen
        it would be counted as delivered, and one that is marked as a suspect be convicted by three restarts. Any
        other number the core keeps to by what it asks for."""
        await self._polling.hold(deliveries == 0)

    async def close(self) -> None:
        """Waits for the poll in flight, as long as the URL's `wait` at most: what it brings is given back at once."""
        if self._closed:
            return
        self._closed = True
        left = self.inbox.end()
        await self._stop_looking()
        await self._polling.ended()
        left += self.inbox.ready  # what the last poll brought
        self.inbox.ready.clear()
        try:
            await self._make_visible(left, 0.0)
        except DriverError:
            return  # the leases end by themselves

    def expire(self) -> None:
        """For tests: what is held and waits here is not ours any more; the server gives it to others later."""
        self._lose([*self.inbox.held, *self.inbox.ready])

    async def cut_off(self, reason: Exception) -> None:
        """For tests: nothing is given back, and nobody is told."""
        self._closed = True
        self.inbox.end(reason)
        await self._stop_looking()
        await self._polling.cut_off()

    # --- calls ----------------------------------------------------------------------------------------

    async def _receive(self, most: int) -> Any:
        await self._check_topics()
        attempt = {"ReceiveRequestAttemptId": uuid.uuid4().hex} if self._ordered else {}
        return await self._clients.sqs.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=most,
            VisibilityTimeout=self._options.lease,
            WaitTimeSeconds=self._options.wait,
            MessageAttributeNames=["All"],
            AttributeNames=["ApproximateReceiveCount", "SentTimestamp", "MessageGroupId"],
            **attempt,
        )

    async def _check_topics(self) -> None:
        """Now and then, by the poll at hand: a group whose subscription somebody has deleted hears nothing more."""
        now = self._clock.monotonic()
        if now >= self._check_at:
            self._check_at = now + self._options.topic_check
            if await self._rejoined(self._url):
                self._notify(Gap())

    async def _delete(self, deliveries: Sequence[Delivery]) -> Settled:
        async def call(entries: list[Any]) -> Any:
            return await self._clients.in_time(
                self._clients.sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
            )

        return await settle(deliveries, call, doing=f"settling at {self.source}", clock=self._clock, seconds=None)

    async def _make_visible(self, deliveries: Sequence[Delivery], delay: float) -> Settled:
        def seconds(delivery: Delivery) -> int:
            return self._allowed(delivery, math.ceil(delay))

        doing = f"giving back to {self.source}"
        return await settle(deliveries, self._change, doing=doing, clock=self._clock, seconds=seconds)

    def _allowed(self, delivery: Delivery, seconds: int) -> int:
        """No longer than SQS lets a message be hidden since it was received; it refuses what is longer."""
        if isinstance(delivery.token, str):  # lost meanwhile: SQS says so itself
            return seconds
        return max(0, min(seconds, int(delivery.token.limit - self._clock.monotonic())))

    async def _change(self, entries: list[Any]) -> Any:
        return await self._clients.in_time(
            self._clients.sqs.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)
        )

    # --- what a poll brings ---------------------------------------------------------------------------

    async def _accept(self, messages: Sequence[Any], server_now: float | None) -> None:
        now = self._clock.monotonic()
        later: list[Received] = []
        unmatched: list[Delivery] = []
        for raw in messages:
            one = received_of(raw, self.source, now + self._options.lease, now + END_OF_HOLD, server_now)
            if one.left > 0 and not self._ordered:
                later.append(one)
            elif one.direct or self._matches(one.delivery):
                self.inbox.put([one.delivery])
            else:
                unmatched.append(one.delivery)  # the broker's filter is coarser than the patterns
        if unmatched:
            await self._delete(unmatched)
        if later:
            await self._send_on(later)

    def _matches(self, delivery: Delivery) -> bool:
        return not isinstance(self.source, TopicSubscription) or self.source.matches(delivery.address)

    async def _send_on(self, later: Sequence[Received]) -> None:
        """The next stretch of delays that are longer than SQS has. First sent, then deleted: a crash in between
        duplicates, the other order would lose. What could not be sent comes again when its lease ends."""

        async def call(batch: list[Any]) -> Any:
            return await self._clients.in_time(self._clients.sqs.send_message_batch(QueueUrl=self._url, Entries=batch))

        entries = [sent_on(one.delivery.native, place, one.left) for place, one in enumerate(later)]
        errors = await self._batches.send(entries, call, ordered=False)
        await self._delete([one.delivery for place, one in enumerate(later) if place not in errors])

    async def _restore(self) -> None:
        self._url, made = await self._restore_queue()
        if made:
            self._lose([*self.inbox.held, *self.inbox.ready])
            self._notify(Recreated())

    # --- leases ---------------------------------------------------------------------------------------

    def _look_later(self) -> None:
        self._timer = self._clock.call_later(self._options.lease / LOOKS, self._look)

    def _look(self) -> None:
        self._expire()
        if self._renewing is None or self._renewing.done():
            soon = self._clock.monotonic() + self._options.lease * 2 / 3
            waiting = [delivery for delivery in self.inbox.ready if delivery.token.expires < soon]
            if waiting:
                name = f"unibus sqs renew {self.source}"
                self._renewing = asyncio.get_running_loop().create_task(self._renew(waiting), name=name)
        self._look_later()

    async def _renew(self, waiting: Sequence[Delivery]) -> None:
        """The core renews what it has received; what waits here is ours to renew."""
        try:
            await self.extend(waiting, self._options.lease)
        except DriverError:
            return  # we look again soon, and tell if it is lost

    async def _stop_looking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._renewing is not None:
            await asyncio.wait({self._renewing})

    def _expire(self) -> None:
        now = self._clock.monotonic()
        self._lose([one for one in (*self.inbox.held, *self.inbox.ready) if one.token.expires <= now])

    def _lose(self, deliveries: Iterable[Delivery]) -> None:
        if told := self.inbox.lose(deliveries):
            self._notify(Lost(told))

"""A live source of deliveries, and its way back when the connection, the channel, the consumer or the queue goes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

from unibus.driver import (
    Clock,
    Delivery,
    Disconnected,
    DriverEvent,
    Gap,
    Lost,
    Outcome,
    Reconnected,
    Recreated,
    Source,
    TopicSubscription,
)
from unibus.errors import ConnectionLost, NotOpen, SettlementLost, UnsupportedCapability
from unibus_rabbitmq.consuming import ChannelEvents, ConsumeChannel, Native
from unibus_rabbitmq.faults import RPC_TIMEOUT, asked_to_end
from unibus_rabbitmq.link import Backoff, Link
from unibus_rabbitmq.topology import Topology, physical_name

logger = logging.getLogger("unibus.rabbitmq")

LOOK_EVERY = 15.0
"""Seconds without a delivery after which we look whether the broker still knows our consumer."""


class RabbitSubscription(ChannelEvents):
    """Made by the driver. While it has no live channel it is being restored."""

    def __init__(
        self,
        source: Source,
        prefetch: int,
        notify: Callable[[DriverEvent], None],
        *,
        link: Link,
        topology: Topology,
        counted: bool,
        clock: Clock,
    ) -> None:
        self._source = source
        self._notify = notify
        self._link = link
        self._topology = topology
        self._ephemeral = isinstance(source, TopicSubscription) and source.group is None
        self._counted = counted and not self._ephemeral
        self._ordered = source.ordering == "key"
        self._limit = prefetch
        self._pushed_at_most = 0
        self._renewing = False
        self._clock = clock
        self._ready: deque[Delivery] = deque()
        self._channel: ConsumeChannel | None = None
        self._finishing: set[ConsumeChannel] = set()
        """Without a consumer any more; what came by them is still in hand."""
        self._queue = ""
        self._waiter: asyncio.Future[None] | None = None
        self._ended: Exception | None = None
        self._broken = asyncio.Event()
        self._away = False
        self._keeper: asyncio.Task[None] | None = None
        self._looker: asyncio.Task[None] | None = None
        self._changer: asyncio.Task[None] | None = None
        self._looked_at = clock.monotonic()

    async def start(self) -> None:
        """Returns once live."""
        self._link.listeners[self] = None
        try:
            await self._attach()
        except BaseException:
            self._link.listeners.pop(self, None)
            raise
        loop = asyncio.get_running_loop()
        self._keeper = loop.create_task(self._keep(), name=f"unibus rabbitmq consume {self._source}")

    @property
    def ended(self) -> bool:
        return self._ended is not None

    # --- for the core -------------------------------------------------------------------------------

    async def receive(self, max_messages: int, max_wait: float) -> Sequence[Delivery]:
        self._check_live()
        until = self._clock.monotonic() + max_wait
        ready = self._ready
        while (not ready or self._renewing) and self._ended is None:
            if self._may_change():
                await self._change()
            elif (left := until - self._clock.monotonic()) > 0:
                await self._wait(left)
            else:
                break
        if isinstance(self._ended, ConnectionLost):
            raise ConnectionLost(*self._ended.args)
        # Nothing is awaited from here on, so that a cancellation loses nothing.
        if not ready or self._renewing:
            self._look_if_due()
            return []
        self._looked_at = self._clock.monotonic()
        return [ready.popleft() for _ in range(min(max_messages, len(ready)))]

    async def hold_at_most(self, deliveries: int) -> None:
        """Implements Narrowing.

        What a quorum queue gets back goes behind what it got back before. So of an ordered source a consumer must
        always be pushed as many as the last one: else some of what that one gave back stays in front.
        """
        if not self._ordered:
            self._limit = deliveries
        elif deliveries < self._limit and self._channel is not None and self._channel.held:
            self._renewing = True
        while self._is_changing() or self._may_change():
            await self._change()

    async def settle(self, deliveries: Sequence[Delivery], outcome: Outcome, *, delay: float = 0.0) -> None:
        if isinstance(self._ended, ConnectionLost):
            raise ConnectionLost(*self._ended.args)
        if delay:
            raise UnsupportedCapability(f"giving back after {delay} s: RabbitMQ gives back at once")
        ours: dict[ConsumeChannel, list[Delivery]] = {}
        lost = 0
        for delivery in deliveries:
            native: Native = delivery.token
            if native.channel.alive:
                ours.setdefault(native.channel, []).append(delivery)
            elif not native.settled:
                lost += 1
        for channel, share in ours.items():
            if outcome is Outcome.NACK and self._ordered:
                channel.put_back(share)
            else:
                channel.settle(share, outcome)
        if self._renewing or self._limit != self._pushed_at_most:
            self.arrived()  # a receive that waits may change the limit now
        if lost:
            raise SettlementLost(
                f"{lost} of {len(deliveries)} deliveries of {self._source} came by a channel that is gone; "
                "they will be, or were, delivered again",
                count=lost,
            )

    async def close(self) -> None:
        if self._ended is None:
            self._end(NotOpen(f"the subscription to {self._source} is closed"))
            if self._keeper is not None:
                self._keeper.cancel()
                await asyncio.wait([self._keeper])
            if self._changer is not None:
                await asyncio.wait([self._changer])
            channels = [*self._finishing, *([self._channel] if self._channel is not None else [])]
            self._channel = None
            self._finishing.clear()
            for channel in channels:
                # In order another consumer would begin before what we hold is back; one of nobody else's needs nothing.
                if not self._ordered and not self._ephemeral:
                    await channel.part()
                await channel.close()

    def abandon(self) -> None:
        """As if the process had been killed."""
        self._end(ConnectionLost("the process behind this driver was killed by its test"))
        for task in (self._keeper, self._changer):
            if task is not None:
                task.cancel()
        self._channel = None

    # --- what the link and the channel tell ---------------------------------------------------------

    def lost(self, reason: str) -> None:
        channels = [*self._finishing, *([self._channel] if self._channel is not None else [])]
        for channel in channels:
            channel.alive = False
            self.channel_ended(channel, reason)

    def blocked(self, reason: str | None) -> None:
        """Of the consuming connection, which publishes nothing."""

    def tell(self, event: DriverEvent) -> None:
        """What the driver noticed elsewhere."""
        if self._ended is None:
            self._notify(event)

    def arrived(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def consumer_ended(self, channel: ConsumeChannel) -> None:
        # The queue was deleted, or is away. The channel lives, and what came by it may still be settled there.
        if channel is self._channel and self._ended is None:
            self._channel = None
            self._finishing.add(channel)
            self._break("the broker ended the consumer: its queue was deleted, or is away")

    def channel_ended(self, channel: ConsumeChannel, reason: str) -> None:
        if self._ended is not None or (channel is not self._channel and channel not in self._finishing):
            return
        if gone := channel.withdraw():
            self._notify(Lost(gone))
        self._finishing.discard(channel)
        if channel is self._channel:
            self._channel = None
            self._break(reason)

    # --- inside -------------------------------------------------------------------------------------

    def _check_live(self) -> None:
        if self._ended is not None:
            raise type(self._ended)(*self._ended.args)
        if self._waiter is not None:
            raise RuntimeError(f"the subscription to {self._source} has a receive under way; one at a time")

    async def _wait(self, max_wait: float) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(max_wait, self.arrived)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _end(self, reason: Exception) -> None:
        self._ended = reason
        self._link.listeners.pop(self, None)
        if self._looker is not None:
            self._looker.cancel()
        self.arrived()

    def _break(self, reason: str) -> None:
        self._broken.set()
        if not self._away:
            self._away = True
            self._notify(Disconnected(reason))

    # --- the limit ----------------------------------------------------------------------------------

    def _may_change(self) -> bool:
        """Whether another consumer may begin: the broker counts only what it has pushed to that one."""
        channel = self._channel
        if channel is None or not channel.alive:
            return False
        if self._renewing:
            return not channel.handed_out
        return self._limit < self._pushed_at_most or self._limit > max(self._pushed_at_most, channel.held)

    def _is_changing(self) -> bool:
        return self._changer is not None and not self._changer.done()

    async def _change(self) -> None:
        """In a task of its own: cut off, the client library would close the channel, and all in hand would be lost."""
        if not self._is_changing():
            loop = asyncio.get_running_loop()
            self._changer = loop.create_task(self._change_limit(), name=f"unibus rabbitmq limit {self._source}")
        assert self._changer is not None
        await asyncio.wait([self._changer])

    async def _change_limit(self) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            if self._renewing:
                await self._renew(channel)
                return
            self._pushed_at_most = 0
            await channel.pause(self._count_ready)
            if channel is self._channel and self._may_change():  # else it was lost and replaced meanwhile
                self._pushed_at_most = limit = self._limit
                await channel.consume(self._queue, limit)
        except (Exception, asyncio.CancelledError) as error:
            if asked_to_end():
                raise
            channel.alive = False
            reason = f"the consumer could not be changed: {error}"
            if self._channel is None and not self._away:
                self._break(reason)
            self.channel_ended(channel, reason)
            await channel.close()

    async def _count_ready(self) -> int:
        ready, _ = await self._topology.ready(physical_name(self._source))
        return ready

    async def _renew(self, channel: ConsumeChannel) -> None:
        """Give back all in order, by ending the channel, and begin afresh: the broker's time runs anew."""
        self._channel = None
        channel.withdraw()
        await channel.close()
        await self._attach()

    # --- restoring ----------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Restores what breaks, for as long as the subscription lives."""
        while True:
            await self._broken.wait()
            backoff = Backoff()
            while self._broken.is_set():
                self._broken.clear()
                try:
                    await self._restore()
                except (Exception, asyncio.CancelledError) as error:
                    if asked_to_end():
                        raise
                    logger.debug("%s: cannot consume again: %r", self._source, error)
                    self._broken.set()
                    await self._clock.sleep(backoff.next())
            self._away = False
            self._notify(Reconnected())

    async def _restore(self) -> None:
        await self._link.ready(RPC_TIMEOUT)
        if self._ephemeral:
            await self._attach()
            self._notify(Gap())
            return
        if await self._topology.restore(self._source):
            self._notify(Recreated())
        await self._attach()

    async def _attach(self) -> None:
        """A consumer on a new channel."""
        connection = await self._link.ready(RPC_TIMEOUT)
        for finished in [channel for channel in self._finishing if not channel.held]:
            self._finishing.discard(finished)
            await finished.close()
        channel = ConsumeChannel(connection, self._source.name, self._counted, self._ready, self)
        await channel.open()
        if self._channel is not None and self._channel.alive:
            await channel.close()  # somebody else was first
            return
        self._channel = channel
        self._renewing = False
        try:
            self._queue = await self._queue_of(channel)
            limit = self._limit
            if limit:
                await channel.consume(self._queue, limit)
            self._pushed_at_most = limit
        except BaseException:
            if channel is self._channel:
                self._channel = None
            await channel.close()
            raise

    async def _queue_of(self, channel: ConsumeChannel) -> str:
        if isinstance(self._source, TopicSubscription) and self._ephemeral:
            return await self._topology.ephemeral(channel.library, self._source)
        return physical_name(self._source)

    # --- the watchdog -------------------------------------------------------------------------------

    def _look_if_due(self) -> None:
        """Nothing came for a while: is the consumer that we believe in still there?"""
        now, channel = self._clock.monotonic(), self._channel
        if now - self._looked_at < LOOK_EVERY or self._ephemeral or channel is None:
            return
        if self._is_changing() or not channel.consumer:
            return  # we want none just now
        self._looked_at = now
        if self._looker is None or self._looker.done():
            loop = asyncio.get_running_loop()
            self._looker = loop.create_task(self._look(channel), name=f"unibus rabbitmq look {self._source}")

    async def _look(self, channel: ConsumeChannel) -> None:
        consumer = channel.consumer
        try:
            ready, consumers = await self._topology.ready(physical_name(self._source))
        except (Exception, asyncio.CancelledError) as error:
            if asked_to_end():
                raise
            logger.debug("%s: cannot look after the consumer: %r", self._source, error)
            return
        # With a single active consumer others may have what is ready.
        passed_by = ready > 0 and not self._ordered and not channel.held and self._limit > 0
        is_ours = channel is self._channel and channel.consumer == consumer and not self._is_changing()
        if is_ours and (not consumers or passed_by):
            logger.debug("%s: the broker has %d consumers and %d ready messages", self._source, consumers, ready)
            channel.alive = False
            self.channel_ended(channel, "the broker does not know our consumer any more")
            await channel.close()
            return
        try:
            await self._topology.rebind(self._source)
        except (Exception, asyncio.CancelledError) as error:
            if asked_to_end():
                raise
            logger.debug("%s: cannot look after its bindings: %r", self._source, error)

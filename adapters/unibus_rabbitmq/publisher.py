"""Sends batches on the publishing connection, each within a deadline of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from unibus.driver import Clock, Outbound
from unibus.errors import BatchError, ConnectionLost, MessageTooLarge, NotSent
from unibus_rabbitmq.link import Link
from unibus_rabbitmq.publishing import Batch, PublishChannel, Route


class Publisher:
    """Has a channel for each kind of destination: queues, topics, delays.

    Apart, since publishing to an exchange that is gone closes the channel, and leaves the outcome
    of all that is on it unknown.
    """

    def __init__(self, link: Link, clock: Clock, timeout: float, max_body: int) -> None:
        self._link = link
        self._clock = clock
        self._timeout = timeout
        self._max_body = max_body
        self._channels: dict[str, PublishChannel] = {}
        self._opening = asyncio.Lock()
        link.listeners[self] = None

    async def send(self, kind: str, messages: Sequence[Outbound], routes: Sequence[Route]) -> None:
        """All confirmed, or BatchError."""
        total = len(messages)
        errors = self._too_large(messages)
        kept = [index for index in range(len(messages)) if index not in errors]
        if errors:
            messages, routes = [messages[index] for index in kept], [routes[index] for index in kept]
        if kept:
            found = await self._send(kind, messages, routes)
            errors.update((kept[index], error) for index, error in found.items())
        if errors:
            raise BatchError(errors, total)

    def lost(self, reason: str) -> None:
        for channel in list(self._channels.values()):
            channel.end(reason)

    def blocked(self, reason: str | None) -> None:
        """What is under way stays unknown at its deadline: the broker stores it once it reads again."""

    def close(self) -> None:
        self.lost("the driver was closed")
        self._link.listeners.pop(self, None)

    def _too_large(self, messages: Sequence[Outbound]) -> dict[int, Exception]:
        most = self._max_body
        return {
            index: MessageTooLarge(len(message.body), most)
            for index, message in enumerate(messages)
            if message.body is not None and len(message.body) > most
        }

    async def _send(self, kind: str, messages: Sequence[Outbound], routes: Sequence[Route]) -> dict[int, Exception]:
        deadline = self._clock.monotonic() + self._timeout
        channel = self._channels.get(kind)
        if channel is None or not channel.alive:
            try:
                channel = await self._open(kind)
            except ConnectionLost as error:
                unsent = NotSent(f"it did not leave: {error}; sending it again is safe")
                unsent.__cause__ = error
                return dict.fromkeys(range(len(messages)), unsent)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch = channel.publish(messages, routes, done)
        timer = self._clock.call_later(deadline - self._clock.monotonic(), lambda: self._expire(channel, batch))
        try:
            await done
        finally:
            timer.cancel()
        return batch.errors

    def _expire(self, channel: PublishChannel, batch: Batch) -> None:
        if not batch.done.done():
            channel.give_up(batch, f"within {self._timeout:g} s")
            batch.done.set_result(None)

    async def _open(self, kind: str) -> PublishChannel:
        async with self._opening:
            channel = self._channels.get(kind)
            if channel is None or not channel.alive:
                connection = await self._link.ready(self._timeout)
                channel = PublishChannel(connection, self._ended)
                await channel.open()
                if not connection.alive:
                    raise ConnectionLost("the connection was lost while a channel was opened")
                self._channels[kind] = channel
        return channel

    def _ended(self, channel: PublishChannel) -> None:
        for kind, known in list(self._channels.items()):
            if known is channel:
                del self._channels[kind]

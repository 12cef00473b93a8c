"""A connection that has subscribed to channels, and hands what it hears to an inbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from unibus.driver import (
    Clock,
    Disconnected,
    DriverEvent,
    Gap,
    Inbox,
    Reconnected,
    TopicSubscription,
    matches,
)
from unibus.errors import DriverError
from unibus_redis.calls import Calls
from unibus_redis.failures import FOREIGN, translate
from unibus_redis.structured import decoded

_BEAT = 2.0
_WON_FOR = 60
"""Seconds for which it is remembered who won a message."""


def channels_of(pattern: str) -> str:
    """A glob that covers an AMQP pattern: `*` of Redis is any text, so it hears too much rather than too little."""
    if "*" not in pattern and "#" not in pattern:
        return pattern
    return pattern.replace(".#", "*").replace("#.", "*").replace("#", "*")


class Listener:
    """calls: of its own, for the connection that listens. shared: for winning."""

    def __init__(
        self,
        source: TopicSubscription,
        calls: Calls,
        shared: Calls,
        inbox: Inbox,
        notify: Callable[[DriverEvent], None],
        clock: Clock,
    ) -> None:
        self._source = source
        self._own = calls
        self._shared = shared
        self._inbox = inbox
        self._notify = notify
        self._clock = clock
        self._channels = {pattern: channels_of(pattern) for pattern in source.patterns}
        self._connection: Any = None
        self._tasks: list[asyncio.Task[None]] = []

    async def go_live(self) -> None:
        """Return once the server has confirmed every channel."""
        try:
            connection = await self._own.connection(self._clock)
            plain = [channel for channel in self._channels.values() if "*" not in channel]
            globs = sorted({channel for channel in self._channels.values() if "*" in channel})
            for word, channels in (("SUBSCRIBE", plain), ("PSUBSCRIBE", globs)):
                if channels:
                    await connection.send_command(word, *channels)
            for _ in [*plain, *globs]:
                await connection.read_response()
        except FOREIGN as error:
            raise translate(error, f"subscribing to {self._source}") from error
        self._connection = connection

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._listen(), name=f"unibus redis listener {self._source}"),
            loop.create_task(self._ping(), name=f"unibus redis ping {self._source}"),
        ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._own.close()

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                if self._connection is None:
                    await self.go_live()
                    self._notify(Reconnected())
                    self._notify(Gap())
                    failures = 0
                await self._hear()
            except (DriverError, *FOREIGN) as error:
                await self._own.close()
                if self._connection is not None:
                    self._notify(Disconnected(str(error)))
                self._connection = None
                failures += 1
                await self._clock.sleep(min(0.05 * 2**failures, 5.0))

    async def _hear(self) -> None:
        while self._inbox.room <= 0:
            await self._inbox.wait_for_room(_BEAT)
        words: Sequence[bytes] = await self._connection.read_response(timeout=2 * _BEAT)
        if words[0] == b"message":
            channel, topic, raw = words[1], words[1].decode(), words[2]
        elif words[0] == b"pmessage":
            channel, topic, raw = words[1], words[2].decode(), words[3]
        else:
            return  # the answer to a ping
        if channel.decode() != self._first_channel(topic):
            return  # heard on another channel too, or on none of ours but for the globs' coarseness
        delivery, publish_id = decoded(raw, topic)
        if await self._won(publish_id):
            self._inbox.put([delivery])

    def _first_channel(self, topic: str) -> str | None:
        for pattern, channel in self._channels.items():
            if matches(pattern, topic):
                return channel
        return None

    async def _won(self, publish_id: str | None) -> bool:
        if self._source.group is None or publish_id is None:
            return True
        key = f"unibus.won.{self._source.group}.{publish_id}"
        return bool(await self._shared.command("SET", key, "1", "NX", "EX", _WON_FOR))

    async def _ping(self) -> None:
        """A connection that is silently gone shows by its silence."""
        while True:
            await self._clock.sleep(_BEAT)
            connection = self._connection
            if connection is not None:
                try:
                    await connection.send_command("PING")
                except FOREIGN:
                    continue  # the listener notices

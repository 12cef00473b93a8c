"""A connection that has subscribed to channels, and hands what it hears to an inbox."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence

from redis import exceptions as foreign
from redis.asyncio.connection import Connection

from unibus.driver import (
    Clock,
    Delivery,
    Disconnected,
    DriverEvent,
    Gap,
    Inbox,
    Reconnected,
    TopicSubscription,
    matches,
)
from unibus.errors import AccessDenied, DriverError
from unibus_redis import keys, scripts
from unibus_redis.calls import Calls
from unibus_redis.failures import FOREIGN, translate
from unibus_redis.link import Argument
from unibus_redis.structured import decoded

logger = logging.getLogger("unibus.redis")

_BEAT = 2.0
_WON_FOR = 60
"""Seconds for which it is remembered who won a message."""
_TOPICS = 4096
_REFUSED_PAUSE = 5.0


def channels_of(pattern: str) -> str:
    """A glob that covers an AMQP pattern: `*` of Redis is any text, so it hears too much rather than too little."""
    if "*" not in pattern and "#" not in pattern:
        return pattern
    return pattern.replace(".#", "*").replace("#.", "*").replace("#", "*")


class Listener:
    def __init__(
        self,
        source: TopicSubscription,
        calls: Calls,
        inbox: Inbox,
        notify: Callable[[DriverEvent], None],
        clock: Clock,
    ) -> None:
        self._source = source
        self._calls = calls
        self._inbox = inbox
        self._notify = notify
        self._clock = clock
        self._channels = {pattern: channels_of(pattern) for pattern in source.patterns}
        self._first: dict[str, bytes | None] = {}
        self._connection: Connection | None = None
        self._heard_at = 0.0
        self._unwon: list[tuple[Delivery, str]] = []
        self._winning: asyncio.Task[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def go_live(self) -> None:
        """Return once the server has confirmed every channel."""
        connection: Connection | None = None
        try:
            connection = await self._calls.nodes.connect(await self._calls.nodes.of(keys.VERSION))
            plain = [channel for channel in self._channels.values() if "*" not in channel]
            globs = sorted({channel for channel in self._channels.values() if "*" in channel})
            for word, channels in (("SUBSCRIBE", plain), ("PSUBSCRIBE", globs)):
                if channels:
                    await connection.send_command(word, *channels, check_health=False)
            for _ in [*plain, *globs]:
                await connection.read_response()
        except FOREIGN as error:
            if connection is not None:
                await connection.disconnect(nowait=True)
            self._calls.nodes.forget()
            raise translate(error, f"subscribing to {self._source} at {self._calls.where}") from error
        self._heard_at = self._clock.monotonic()
        self._connection = connection

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._listen(), name=f"unibus redis listener {self._source}"),
            loop.create_task(self._ping(), name=f"unibus redis ping {self._source}"),
        ]

    async def close(self) -> None:
        tasks = [*self._tasks, *([self._winning] if self._winning is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._hang_up()

    # --- hearing --------------------------------------------------------------------------------------

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
            except Exception as error:  # whatever it is: a subscriber must not fall silent
                if not isinstance(error, (DriverError, *FOREIGN)):
                    logger.debug("listening for %s failed in no known way", self._source, exc_info=error)
                if self._connection is not None:
                    self._notify(Disconnected(str(error)))
                await self._hang_up()
                failures += 1
                await self._clock.sleep(
                    _REFUSED_PAUSE if isinstance(error, AccessDenied) else min(0.05 * 2**failures, 5.0)
                )

    async def _hear(self) -> None:
        connection = self._connection
        if connection is None:
            raise foreign.ConnectionError("the connection was given up")
        while self._inbox.room - len(self._unwon) <= 0:
            await self._inbox.wait_for_room(_BEAT)
            self._heard_at = self._clock.monotonic()  # it was we who did not listen
        words: Sequence[bytes] = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
        self._heard_at = self._clock.monotonic()
        if words[0] == b"message":
            _, channel, raw = words
            topic = channel.decode(errors="replace")
        elif words[0] == b"pmessage":
            _, channel, name, raw = words
            topic = name.decode(errors="replace")
        else:
            return  # the answer to a ping
        if channel != self._first_channel(topic):
            return  # heard on another channel too, or on none of ours but for the globs' coarseness
        self._take(raw, topic)

    def _take(self, raw: bytes, topic: str) -> None:
        delivery, publish_id = decoded(raw, topic)
        if self._source.group is None or publish_id is None:
            self._inbox.put([delivery])
            return
        self._unwon.append((delivery, keys.won(self._source.group, publish_id)))
        if self._winning is None or self._winning.done():
            self._winning = asyncio.get_running_loop().create_task(
                self._win(), name=f"unibus redis winner {self._source}"
            )

    async def _win(self) -> None:
        """All that was heard while the last call was under way is one call."""
        await asyncio.sleep(0)
        while self._unwon:
            heard, self._unwon = self._unwon, []
            arguments: list[Argument] = [_WON_FOR]
            try:
                won = await self._calls.script(scripts.WIN, [key for _, key in heard], arguments)
            except DriverError as error:
                # Nobody knows who has won them. It is at most once, so nobody handles them.
                self._notify(Disconnected(str(error)))
                self._notify(Gap(len(heard)))
                self._notify(Reconnected())
                continue
            self._inbox.put([delivery for (delivery, _), ours in zip(heard, won, strict=True) if ours])

    def _first_channel(self, topic: str) -> bytes | None:
        """Of several that a topic is heard on the first counts."""
        if topic not in self._first:
            if len(self._first) >= _TOPICS:
                self._first.clear()
            fitting = (channel for pattern, channel in self._channels.items() if matches(pattern, topic))
            found = next(fitting, None)
            self._first[topic] = found.encode() if found is not None else None
        return self._first[topic]

    async def _ping(self) -> None:
        """A connection that is silently gone shows by its silence."""
        while True:
            await self._clock.sleep(_BEAT)
            connection = self._connection
            if connection is None:
                continue
            if self._clock.monotonic() - self._heard_at > 3 * _BEAT:
                await connection.disconnect(nowait=True)  # whoever reads from it is told
                continue
            try:
                await connection.send_command("PING", check_health=False)
            except FOREIGN:
                continue  # the listener notices

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

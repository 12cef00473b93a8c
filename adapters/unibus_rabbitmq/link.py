"""Keeps one connection alive: opens it again when it ends, and ends it when it falls silent."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Protocol

from unibus.driver import Clock, Timer
from unibus.errors import AccessDenied, ConnectionLost, NotOpen
from unibus_rabbitmq.connection import Connection
from unibus_rabbitmq.faults import asked_to_end
from unibus_rabbitmq.options import Endpoint

logger = logging.getLogger("unibus.rabbitmq")

FIRST_WAIT, LONGEST_WAIT, DENIED_WAIT = 0.1, 3.0, 5.0
"""Seconds between attempts to connect: the first, the longest, and the least after a refused login."""


class Backoff:
    """Waits that double, with jitter."""

    def __init__(self, longest: float = LONGEST_WAIT) -> None:
        self._longest = longest
        self._next = FIRST_WAIT

    def next(self, least: float = 0.0) -> float:
        wait, self._next = self._next, min(self._next * 2, self._longest)
        return max(wait * random.uniform(0.5, 1.0), least)


class Listener(Protocol):
    """What is told of a link. Called on the loop, at once, and must not raise."""

    def lost(self, reason: str) -> None:
        """The connection and all channels on it are gone."""

    def blocked(self, reason: str | None) -> None:
        """The broker takes no publishes (None: takes them again)."""


class Link:
    """One connection, for as long as the driver is open. purpose: "publish" or "consume"."""

    def __init__(self, endpoint: Endpoint, purpose: str, clock: Clock) -> None:
        self.endpoint = endpoint
        self.listeners: dict[Listener, None] = {}
        self.blocked: str | None = None
        self._purpose = purpose
        self._clock = clock
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._up: asyncio.Future[None] | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._last_error: Exception | None = None
        self._watch: Timer | None = None
        self._silent = False
        self._closed = False

    @property
    def is_open(self) -> bool:
        return self._connection is not None or self._reconnecting is not None

    @property
    def connection(self) -> Connection | None:
        """The live one, or None while there is none."""
        connection = self._connection
        return connection if connection is not None and connection.alive else None

    async def open(self) -> None:
        """Connect for the first time, with no second attempt. Idempotent."""
        async with self._opening:
            if not self.is_open and not self._closed:
                await self._connect()

    async def ready(self, within: float) -> Connection:
        """The live connection, waited for if need be. Raises ConnectionLost, or NotOpen once closed."""
        if self._closed:
            raise NotOpen("the driver is closed")
        if self.connection is None:
            if not self.is_open:
                await self.open()
            else:
                await self._wait(within)
        connection = self.connection
        if connection is None:
            raise ConnectionLost(
                f"{self.endpoint.url}: not connected ({self._last_error or 'the connection was lost'})"
            )
        return connection

    async def close(self) -> None:
        """Idempotent."""
        self._stop()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
            await asyncio.wait([self._reconnecting])
        if self._connection is not None:
            await self._connection.close()

    def abandon(self) -> None:
        """As if the process had been killed: the socket is dropped, nobody is told, nothing is opened again."""
        self._stop()
        self.listeners.clear()
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        if self._connection is not None:
            self._connection.abort("abandoned")

    # --- inside -------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        connection = Connection(self.endpoint, self._purpose, self._lost, self._on_blocked)
        try:
            await connection.open()
        except Exception as error:
            self._last_error = error
            raise
        self._connection = connection
        self._on_blocked(None)
        self._watch_on()
        if self._up is not None and not self._up.done():
            self._up.set_result(None)

    async def _wait(self, within: float) -> None:
        if self._up is None or self._up.done():
            self._up = asyncio.get_running_loop().create_future()
        timer = self._clock.call_later(within, self._release)
        try:
            await asyncio.shield(self._up)
        finally:
            timer.cancel()

    def _release(self) -> None:
        """Somebody has waited long enough: all who wait look, and wait again if they may."""
        if self._up is not None and not self._up.done():
            self._up.set_result(None)

    def _lost(self, reason: str) -> None:
        if self._closed:
            return
        logger.debug("%s (%s): the connection was lost: %s", self.endpoint.url, self._purpose, reason)
        self._last_error = ConnectionLost(reason)
        loop = asyncio.get_running_loop()
        self._reconnecting = loop.create_task(self._reconnect(), name=f"unibus rabbitmq reconnect {self._purpose}")
        for listener in list(self.listeners):
            listener.lost(reason)

    async def _reconnect(self) -> None:
        backoff = Backoff()
        while not self._closed:
            try:
                await self._connect()
                return
            except (Exception, asyncio.CancelledError) as error:
                if asked_to_end():
                    raise
                logger.debug("%s (%s): cannot connect: %r", self.endpoint.url, self._purpose, error)
                await self._clock.sleep(backoff.next(DENIED_WAIT if isinstance(error, AccessDenied) else 0.0))

    def _on_blocked(self, reason: str | None) -> None:
        if reason != self.blocked:
            self.blocked = reason
            for listener in list(self.listeners):
                listener.blocked(reason)

    def _watch_on(self) -> None:
        """A server that is there sends a heartbeat at least; the library would notice only after three."""
        if self._watch is not None:
            self._watch.cancel()
        self._watch = None
        connection, heartbeat = self.connection, self.endpoint.options.heartbeat
        if self._closed or connection is None:
            return
        if connection.silent_for <= 2 * heartbeat:
            self._silent = False
        elif self._silent:
            connection.abort(f"the server was silent for {connection.silent_for:.0f} s")
            return
        else:
            self._silent = True  # or it was us who did not listen: what came meanwhile is read by the next time
        self._watch = self._clock.call_later(heartbeat / 4, self._watch_on)

    def _stop(self) -> None:
        self._closed = True
        self._release()
        if self._watch is not None:
            self._watch.cancel()

"""A TCP proxy on 127.0.0.1 that does to connections what networks do: before any broker, without its help."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit

CHUNK = 65536
HELD = 64
"""Chunks that a direction of a connection holds before it reads no more, so that its sender blocks."""

When: TypeAlias = Callable[[bytes], bool]
_Stream: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Direction:
    """One way through the proxy, for all its connections. passed: bytes that went through. held: bytes on the way."""

    passed: int = 0
    held: int = 0
    delay: float = 0.0
    jitter: float = 0.0
    moving: asyncio.Event = field(default_factory=asyncio.Event)

    def due(self) -> float:
        return asyncio.get_running_loop().time() + self.delay + random.uniform(0.0, self.jitter)


@dataclass
class _Drop:
    chunks: int
    when: When
    done: asyncio.Event = field(default_factory=asyncio.Event)
    victim: _Connection | None = None


class FaultProxy:
    """`async with FaultProxy("127.0.0.1", 5672) as proxy: Bus(proxy.url("amqp://…"))`

    to_broker, from_broker: what went through, per direction. connections: how many were accepted so far.
    listen: the port to listen on; 0 takes a free one. It stays the same, whatever is done to connections.
    """

    def __init__(self, host: str, port: int, *, listen: int = 0) -> None:
        self.target = (host, port)
        self._listen = listen
        self._open: set[_Connection] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._drop: _Drop | None = None
        self._keeper: socket.socket | None = None
        self._listener: socket.socket | None = None
        self.to_broker = Direction()
        self.from_broker = Direction()
        self.connections = 0
        self.port = 0

    async def __aenter__(self) -> FaultProxy:
        # Bound all the time, so that nobody takes the port while connections are refused.
        self._keeper = _bound(self._listen)
        self.port = self._keeper.getsockname()[1]
        self.heal()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut(refuse=True)
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._keeper is not None:
            self._keeper.close()

    def url(self, url: str) -> str:
        """The same URL by way of this proxy."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{self.port}"))

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._open)

    # --- faults -------------------------------------------------------------------------------------------

    def cut(self, *, refuse: bool = False) -> None:
        """Reset every connection, on both sides. refuse: refuse new ones, too, until `heal`."""
        if refuse:
            self._refuse()
        for connection in list(self._open):
            connection.reset()

    def freeze(self, *, to_broker: bool = True, from_broker: bool = True) -> None:
        """A black hole until `heal`: nothing goes this way, not even an end, and nobody is told.

        As by TCP, nothing is lost: what is sent is held, and goes on later. A connection made meanwhile
        is accepted, and stays silent: it gets through to the broker later.
        """
        if to_broker:
            self.to_broker.moving.clear()
        if from_broker:
            self.from_broker.moving.clear()

    def drop_reply(self, n: int = 1, *, when: When = lambda chunk: True) -> asyncio.Event:
        """Swallow the next n chunks that the broker sends on one connection, then cut that: the lost reply.

        when: whether a chunk is the one to begin with. The event is set when the connection was cut.
        """
        self._drop = _Drop(n, when)
        return self._drop.done

    def delay(self, seconds: float, jitter: float = 0.0, *, to_broker: bool = True, from_broker: bool = True) -> None:
        """Pass on so many seconds later, and up to `jitter` more; what is sent stays in order."""
        for direction, chosen in ((self.to_broker, to_broker), (self.from_broker, from_broker)):
            if chosen:
                direction.delay, direction.jitter = seconds, jitter

    def heal(self) -> None:
        """End all faults. Connections that were cut stay so."""
        self._drop = None
        self.delay(0.0)
        self.to_broker.moving.set()
        self.from_broker.moving.set()
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen(128)
            self._listener.setblocking(False)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    # --- inside -------------------------------------------------------------------------------------------

    def _refuse(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            client, _ = listener.accept()
            client.setblocking(False)
            self.connections += 1
            connection = _Connection(self, client)
            self._open.add(connection)
            self._ending.add(connection.task)
            connection.task.add_done_callback(self._ending.discard)

    def _swallows(self, connection: _Connection, chunk: bytes) -> bool:
        """Whether the chunk is the reply to lose, or behind it: a stream has no gaps."""
        drop = self._drop
        if drop is None or drop.victim not in (None, connection):
            return False
        if drop.victim is None and not drop.when(chunk):
            return False
        drop.victim = connection
        drop.chunks -= 1
        if drop.chunks <= 0:
            self._drop = None
            connection.reset()
            drop.done.set()
        return True


class _Connection:
    """A client's connection and the one to the broker that belongs to it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket) -> None:
        self._proxy = proxy
        self._writers: list[asyncio.StreamWriter] = []
        self._is_reset = False
        self.task = asyncio.get_running_loop().create_task(self._run(client), name=f"fault proxy {proxy.port}")

    def reset(self) -> None:
        """RST to both sides, and the end of this."""
        self._is_reset = True
        self._abort()
        if self._writers:  # else the client's socket is being made a stream, which is a matter of the loop's next turn
            self.task.cancel()

    async def _run(self, client: socket.socket) -> None:
        try:
            with suppress(OSError):
                await self._pass(client)
        finally:
            self._abort()
            for writer in self._writers:
                with suppress(OSError):
                    await writer.wait_closed()

    async def _pass(self, client: socket.socket) -> None:
        reader, writer = await self._stream(asyncio.open_connection(sock=client))
        if self._is_reset:
            return
        await self._proxy.to_broker.moving.wait()
        broker_reader, broker_writer = await self._stream(asyncio.open_connection(*self._proxy.target))
        there = _Pipe(self._proxy.to_broker, reader, broker_writer)
        back = _Pipe(self._proxy.from_broker, broker_reader, writer, lambda chunk: self._proxy._swallows(self, chunk))
        try:
            async with asyncio.TaskGroup() as passing:  # the first error ends all four
                for each in (there.read(), there.write(), back.read(), back.write()):
                    passing.create_task(each, name=f"fault proxy {self._proxy.port}, passing")
            for ended in self._writers:
                ended.close()
                await ended.wait_closed()
        except* OSError:
            pass  # a reset on one side: it becomes one on the other
        finally:
            there.end()
            back.end()

    def _abort(self) -> None:
        self._proxy._open.discard(self)
        for writer in self._writers:
            if not writer.transport.is_closing():  # else its socket's number may be another one's by now
                with suppress(OSError):  # without time to linger, closing resets
                    no_time = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_time)
            writer.transport.abort()

    async def _stream(self, connecting: Awaitable[_Stream]) -> _Stream:
        stream = await connecting
        self._writers.append(stream[1])
        return stream


class _Pipe:
    """One direction of a connection."""

    def __init__(
        self,
        direction: Direction,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        swallows: When | None = None,
    ) -> None:
        self._direction = direction
        self._source = source
        self._sink = sink
        self._swallows = swallows
        self._chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD)
        self._held = 0

    async def read(self) -> None:
        while chunk := await self._source.read(CHUNK):
            if self._swallows is not None and self._swallows(chunk):
                continue
            self._hold(len(chunk))
            await self._chunks.put((self._direction.due(), chunk))
        await self._chunks.put((self._direction.due(), b""))

    async def write(self) -> None:
        """Until the source has ended, which is passed on like all that it sent."""
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await self._chunks.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            await self._direction.moving.wait()
            if self._sink.is_closing():
                raise ConnectionResetError
            if not chunk:
                self._sink.write_eof()
                return
            self._sink.write(chunk)
            self._hold(-len(chunk))
            self._direction.passed += len(chunk)
            await self._sink.drain()

    def end(self) -> None:
        """What it still holds is lost."""
        self._hold(-self._held)

    def _hold(self, size: int) -> None:
        self._held += size
        self._direction.held += size


def _bound(port: int) -> socket.socket:
    """A socket that has the port, beside others of this proxy, and does not listen yet."""
    made = socket.socket()
    try:
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            made.setsockopt(socket.SOL_SOCKET, option, 1)
        made.bind(("127.0.0.1", port))
    except BaseException:
        made.close()
        raise
    return made

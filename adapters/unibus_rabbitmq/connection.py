"""One connection to the broker, from the first byte to the last. Keeping one alive is the link's job."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Callable

import aio_pika
import aiormq
from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.connection import TransportFactory
from yarl import URL

from unibus.errors import AccessDenied, ConnectionLost, DestinationNotFound, UnibusError
from unibus_rabbitmq.faults import asked_to_end, told, translated
from unibus_rabbitmq.frames import CLOSE_OK, Control, FrameReader, Reading
from unibus_rabbitmq.options import Endpoint

logger = logging.getLogger("unibus.rabbitmq")

CLOSE_TIMEOUT = 2.0
"""Seconds that a polite end may take."""


class _Protocol(asyncio.StreamReaderProtocol):
    """Tells of the end at once, before the library finds out."""

    def __init__(self, reader: FrameReader, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None]) -> None:
        super().__init__(reader, loop=loop)
        self._reader = reader
        self._on_end = on_end

    def connection_lost(self, exc: Exception | None) -> None:
        self._reader.end()
        super().connection_lost(None)
        self._on_end()


class _Streams(TransportFactory):
    """Hands the library the streams that are open already."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._streams = reader, writer

    async def create(self, url: URL, **kwargs: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._streams


class _Library(aio_pika.Connection):
    """aio-pika's connection, the plain one: to connect again and to restore is our work."""

    def __del__(self) -> None:
        """Its end is seen to by us; the library would start a task for it whenever memory is cleared up."""


class Connection:
    """Open it once; `on_lost(reason)` is called once when an open one ends, unless `close` ended it.

    on_blocked: called with the broker's reason when it takes no more publishes, with None when it does again.
    """

    def __init__(
        self, endpoint: Endpoint, purpose: str, on_lost: Callable[[str], None], on_blocked: Callable[[str | None], None]
    ) -> None:
        self._endpoint = endpoint
        self._purpose = purpose
        self._on_lost = on_lost
        self._control = Control(on_blocked, self._agree_to_close)
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(self._control, self._loop)
        self._transport: asyncio.Transport
        self.library: aio_pika.Connection | None = None
        """aio-pika's own, once it is open."""
        self._given_up = ""
        self.alive = False

    # --- opening ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Raises ConnectionLost, AccessDenied or DestinationNotFound (the virtual host)."""
        timeout = self._endpoint.options.connect_timeout
        opening = self._loop.create_task(self._open(), name=f"unibus rabbitmq connect {self._purpose}")
        try:
            await asyncio.wait([opening], timeout=timeout)
            if opening.done():
                await opening
                return
            raise ConnectionLost(
                f"{self._endpoint.url}: nothing answered as an AMQP server does within {timeout:g} s; "
                "check host and port, and whether the server is up"
            )
        finally:
            if not opening.done():
                self.abort("it did not open")
                opening.cancel()
                await asyncio.wait([opening])

    async def _open(self) -> None:
        try:
            await self._connect()
            await self._shake_hands()
        except UnibusError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            if asked_to_end():
                raise
            self.abort("it did not open")
            raise self._why(error) from error
        self.alive = True

    async def _connect(self) -> None:
        endpoint, options = self._endpoint, self._endpoint.options
        context = await asyncio.to_thread(endpoint.ssl_context) if endpoint.tls else None
        self._transport, self._protocol = await self._loop.create_connection(
            lambda: _Protocol(self._reader, self._loop, self._ended),
            endpoint.host,
            endpoint.port,
            ssl=context,
            ssl_handshake_timeout=options.connect_timeout if context else None,
        )

    async def _shake_hands(self) -> None:
        endpoint, options = self._endpoint, self._endpoint.options
        writer = asyncio.StreamWriter(self._transport, self._protocol, self._reader, self._loop)
        url = URL.build(
            scheme=endpoint.url.scheme,
            user=endpoint.username,
            password=endpoint.password,
            host=endpoint.host,
            port=endpoint.port,
            path=f"/{endpoint.vhost}",
            query={"heartbeat": str(options.heartbeat), "name": f"{options.name} {self._purpose}"},
        )
        library = _Library(url, loop=self._loop)
        library.kwargs["transport_factory"] = _Streams(self._reader, writer)
        await library.connect()
        self.library = library

    def _why(self, error: BaseException) -> UnibusError:
        """The one error that says what is wrong with the URL or behind it."""
        url, foreign = self._endpoint.url, self._reader.foreign
        if foreign.startswith((b"\x15\x03", b"\x16\x03")):
            return ConnectionLost(f"{url}: the server speaks TLS on this port; use amqps://", retryable=False)
        if foreign:
            return ConnectionLost(
                f"{url}: what listens there is no AMQP 0-9-1 server (it says {foreign!r}); check the port, "
                "which is 5672 or, with TLS, 5671 by default",
                retryable=False,
            )
        if isinstance(error, ssl.SSLError):
            return self._why_tls(error)
        if self._control.close is not None:
            return self._why_closed(*self._control.close)
        if isinstance(error, OSError) and not isinstance(error, aiormq.AMQPError):
            return ConnectionLost(f"{url}: cannot connect ({error}); check host and port, and whether the server is up")
        return translated(error, f"{url}: connecting")

    def _why_tls(self, error: ssl.SSLError) -> UnibusError:
        url = self._endpoint.url
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConnectionLost(
                f"{url}: the server's certificate is not to be trusted ({error.verify_message}); "
                "name the authority that signed it with cafile=, and the host as the certificate does",
                retryable=False,
            )
        return ConnectionLost(
            f"{url}: TLS failed ({error.reason or error}); is this a TLS port? Plain AMQP is amqp://", retryable=False
        )

    def _why_closed(self, code: int, words: str) -> UnibusError:
        url = self._endpoint.url
        if code == 403:
            return AccessDenied(f"{url}: {words}; check user name and password")
        if re.search(r"vhost .*not found", words):
            return DestinationNotFound(f"{url}: {words}; create the virtual host, or name another in the URL's path")
        if code == 530:
            return AccessDenied(f"{url}: {words}; check the virtual host and the user's rights on it")
        return ConnectionLost(f"{url}: the server closed the connection: {code} {words}")

    # --- open ---------------------------------------------------------------------------------------

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version; (0,) if it is not RabbitMQ's."""
        text = str(self._underlay.server_properties.get("version", ""))
        numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
        return tuple(int(part) for part in numbers.groups(default="0")) if numbers else (0,)

    @property
    def _underlay(self) -> AbstractConnection:
        """What aio-pika stands on: it has the channels on which batches are written and read as they are."""
        assert self.library is not None
        assert self.library.transport is not None
        return self.library.transport.connection

    @property
    def max_frame(self) -> int:
        """Bytes of a frame's payload."""
        return (self._underlay.connection_tune.frame_max or 131072) - 8

    @property
    def silent_for(self) -> float:
        """Seconds since the server was heard last."""
        return self._loop.time() - self._reader.heard

    async def channel(self, reading: Reading | None = None, *, confirms: bool = False) -> AbstractChannel:
        """A new channel; what `reading` is interested in goes there."""
        if not self.alive:
            raise ConnectionLost(f"{self._endpoint.url}: the connection was lost ({self._given_up})")
        async with told(f"{self._endpoint.url}: opening a channel"):
            channel = await self._underlay.channel(publisher_confirms=confirms)
        if reading is not None:
            self._reader.readings[channel.number] = reading
        return channel

    async def close_channel(self, channel: AbstractChannel) -> None:
        """Politely: what was written before is acted upon."""
        try:
            if self.alive and not channel.is_closed:
                async with told(f"{self._endpoint.url}: closing a channel", CLOSE_TIMEOUT):
                    await channel.close()
        except ConnectionLost as error:
            logger.debug("%s", error)
        finally:
            self._reader.readings.pop(channel.number, None)

    def write(self, data: bytes) -> None:
        """Whole frames; they leave in the order of the calls. Once the broker has ended it they go nowhere."""
        if self._control.close is None:
            self._transport.write(data)

    # --- the end ------------------------------------------------------------------------------------

    def abort(self, reason: str) -> None:
        """Drop the socket without a word."""
        self._given_up = self._given_up or reason
        transport = getattr(self, "_transport", None)
        if transport is not None:
            transport.abort()

    async def close(self) -> None:
        """Say good-bye. Idempotent; `on_lost` is not called."""
        self._on_lost = lambda _: None
        self._given_up = self._given_up or "closed"
        was_alive, self.alive = self.alive, False
        if self.library is None:
            return
        try:
            if was_alive:
                async with told(f"{self._endpoint.url}: closing", CLOSE_TIMEOUT):
                    await self.library.close()
        except ConnectionLost as error:
            logger.debug("%s", error)
        finally:
            self.abort("closed")

    def _agree_to_close(self) -> None:
        """The broker has ended it, and reads no more but this."""
        self._transport.write(CLOSE_OK)
        self._transport.close()

    def _ended(self) -> None:
        if not self.alive:
            return
        self.alive = False
        if self._control.close is not None:
            code, words = self._control.close
            self._given_up = self._given_up or f"the server closed it: {code} {words}"
        self._on_lost(self._given_up or "the socket was closed")

"""The fault proxy before a server that echoes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest
import pytest_asyncio

from unibus.testing.proxy import FaultProxy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Sends back what it gets. ended: how the connections ended, by the error or None."""

    def __init__(self) -> None:
        self.received = b""
        self.ended: list[OSError | None] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while data := await reader.read(65536):
                self.received += data
                writer.write(data)
                await writer.drain()
            self.ended.append(None)
        except OSError as error:
            self.ended.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@pytest_asyncio.fixture
async def echo() -> AsyncIterator[Echo]:
    server = Echo()
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture
async def proxy(echo: Echo) -> AsyncIterator[FaultProxy]:
    async with FaultProxy("127.0.0.1", echo.port) as made:
        yield made
    left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("fault proxy")]
    assert not left, "tasks outlived the proxy"


async def connect(proxy: FaultProxy) -> Streams:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def echoed(streams: Streams, data: bytes) -> bytes:
    reader, writer = streams
    writer.write(data)
    return await asyncio.wait_for(reader.readexactly(len(data)), 10)


async def close(*all_streams: Streams) -> None:
    for _, writer in all_streams:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "did not happen"
        await asyncio.sleep(0.001)


async def assert_reset(streams: Streams) -> None:
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(streams[0].readexactly(1), 10)
    await close(streams)


async def test_passes_and_counts(echo: Echo, proxy: FaultProxy) -> None:
    one, two = await connect(proxy), await connect(proxy)
    large = bytes(range(256)) * 8192  # more than any buffer on the way
    assert await echoed(one, b"hello") == b"hello"
    assert await echoed(two, large) == large
    assert (proxy.connections, proxy.open) == (2, 2)
    assert proxy.to_broker.passed == proxy.from_broker.passed == 5 + len(large)
    await close(one, two)
    await until(lambda: proxy.open == 0)
    assert echo.ended == [None, None], "an end is passed on as an end, not as a reset"


async def test_half_closed(echo: Echo, proxy: FaultProxy) -> None:
    """What comes back after the client's end still arrives."""
    reader, writer = await connect(proxy)
    writer.write(b"last words")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 10) == b"last words"
    await close((reader, writer))


def test_url() -> None:
    proxy = FaultProxy("127.0.0.1", 5672)
    proxy.port = 1234
    assert proxy.url("amqp://me:s%40cret@broker:5672/v%2Fhost?a=1") == "amqp://me:s%40cret@127.0.0.1:1234/v%2Fhost?a=1"
    assert proxy.url("redis://broker") == "redis://127.0.0.1:1234"


async def test_cut_resets_both_sides(echo: Echo, proxy: FaultProxy) -> None:
    streams = await connect(proxy)
    await echoed(streams, b"x")
    proxy.cut()
    assert proxy.open == 0
    await assert_reset(streams)
    await until(lambda: len(echo.ended) == 1)
    assert isinstance(echo.ended[0], ConnectionResetError)
    again = await connect(proxy)
    assert await echoed(again, b"y") == b"y", "new connections are taken"
    await close(again)


async def test_refuse_until_healed(proxy: FaultProxy) -> None:
    streams = await connect(proxy)
    await echoed(streams, b"x")
    port = proxy.port
    for _ in range(3):
        proxy.cut(refuse=True)
        with pytest.raises(ConnectionRefusedError):
            await connect(proxy)
        proxy.heal()
        again = await connect(proxy)
        assert await echoed(again, b"y") == b"y"
        await close(again)
    assert proxy.port == port
    await assert_reset(streams)


async def test_a_reset_of_the_broker_is_one_of_the_client(echo: Echo, proxy: FaultProxy) -> None:
    async with FaultProxy("127.0.0.1", proxy.port) as outer:
        streams = await connect(outer)
        await echoed(streams, b"x")
        proxy.cut()
        await assert_reset(streams)


async def test_broker_is_away(echo: Echo, proxy: FaultProxy) -> None:
    await echo.stop()
    await assert_reset(await connect(proxy))
    await until(lambda: proxy.open == 0)


@pytest.mark.parametrize("to_broker", [True, False])
async def test_freeze_holds_one_way(echo: Echo, proxy: FaultProxy, to_broker: bool) -> None:
    streams = await connect(proxy)
    await echoed(streams, b"before")
    frozen = proxy.to_broker if to_broker else proxy.from_broker
    passed = frozen.passed
    proxy.freeze(to_broker=to_broker, from_broker=not to_broker)
    streams[1].write(b"during")
    await until(lambda: frozen.held == 6)
    assert frozen.passed == passed
    assert echo.received == (b"before" if to_broker else b"beforeduring")
    proxy.heal()
    assert await asyncio.wait_for(streams[0].readexactly(6), 10) == b"during"
    assert frozen.held == 0
    await close(streams)


async def test_freeze_hides_the_end(echo: Echo, proxy: FaultProxy) -> None:
    """A client that gave up is not gone for the broker until the network is back."""
    streams = await connect(proxy)
    await echoed(streams, b"x")
    proxy.freeze()
    streams[1].write(b"never answered")
    await until(lambda: proxy.to_broker.held == 14)
    await close(streams)
    assert proxy.open == 1
    assert echo.ended == []
    proxy.heal()
    await until(lambda: proxy.open == 0)
    await until(lambda: len(echo.ended) == 1)
    assert echo.received == b"xnever answered"


async def test_a_connection_made_while_frozen_is_silent(echo: Echo, proxy: FaultProxy) -> None:
    proxy.freeze()
    streams = await connect(proxy)
    streams[1].write(b"hello")
    await until(lambda: proxy.open == 1)
    assert echo.received == b""
    proxy.heal()
    assert await asyncio.wait_for(streams[0].readexactly(5), 10) == b"hello"
    await close(streams)


async def test_freeze_blocks_a_sender_in_the_end(proxy: FaultProxy) -> None:
    proxy.freeze()
    streams = await connect(proxy)
    streams[1].write(bytes(64 * 1024 * 1024))
    drained = asyncio.ensure_future(streams[1].drain())
    done, _ = await asyncio.wait([drained], timeout=0.2)
    assert not done
    proxy.cut()
    with pytest.raises(ConnectionError):
        await drained
    await close(streams)


async def test_cut_while_frozen(echo: Echo, proxy: FaultProxy) -> None:
    streams = await connect(proxy)
    await echoed(streams, b"x")
    proxy.freeze()
    streams[1].write(b"lost")
    await until(lambda: proxy.to_broker.held == 4)
    proxy.cut()
    await assert_reset(streams)
    await until(lambda: proxy.to_broker.held == 0)
    proxy.heal()
    assert echo.received == b"x"


async def test_drop_reply(echo: Echo, proxy: FaultProxy) -> None:
    """The broker has it, and the client does not know."""
    streams, other = await connect(proxy), await connect(proxy)
    await echoed(streams, b"first")
    await echoed(other, b"other")
    cut = proxy.drop_reply()
    streams[1].write(b"second")
    await assert_reset(streams)
    assert cut.is_set()
    assert echo.received == b"firstothersecond"
    assert await echoed(other, b"more") == b"more", "other connections go on"
    await close(other)


async def test_drop_replies_from_a_chosen_one_on(echo: Echo, proxy: FaultProxy) -> None:
    streams = await connect(proxy)
    cut = proxy.drop_reply(2, when=lambda chunk: b"ack" in chunk)
    assert await echoed(streams, b"heartbeat") == b"heartbeat"
    streams[1].write(b"ack 1")
    await until(lambda: proxy.to_broker.passed == 14 and len(echo.received) == 14)
    assert not cut.is_set()
    streams[1].write(b"heartbeat")
    await assert_reset(streams)
    await asyncio.wait_for(cut.wait(), 10)
    assert proxy.from_broker.passed == 9


async def test_delay_keeps_order(proxy: FaultProxy) -> None:
    streams = await connect(proxy)
    proxy.delay(0.05, jitter=0.05)
    began = time.monotonic()
    for number in range(20):
        streams[1].write(b"%02d" % number)
        await streams[1].drain()
    answer = await asyncio.wait_for(streams[0].readexactly(40), 10)
    assert time.monotonic() - began >= 0.1, "both ways"
    assert answer == b"".join(b"%02d" % number for number in range(20))
    proxy.heal()
    assert (proxy.to_broker.delay, proxy.from_broker.delay) == (0, 0)
    await close(streams)


async def test_delay_of_one_direction(proxy: FaultProxy) -> None:
    proxy.delay(30, from_broker=False)
    assert (proxy.to_broker.delay, proxy.from_broker.delay) == (30, 0)


async def test_close_ends_all(echo: Echo) -> None:
    """Whatever is going on: served, frozen, delayed, not yet connected."""
    async with FaultProxy("127.0.0.1", echo.port) as proxy:
        served, frozen = await connect(proxy), await connect(proxy)
        await echoed(served, b"x")
        proxy.delay(60)
        served[1].write(b"late")
        await until(lambda: proxy.to_broker.held == 4)
        proxy.freeze()
        frozen[1].write(b"held")
        new = await connect(proxy)
        await until(lambda: proxy.open == 3)
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("fault proxy")] == []
    for streams in (served, frozen, new):
        await assert_reset(streams)
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    assert proxy.to_broker.held == 0


async def test_a_chosen_port(echo: Echo) -> None:
    async with FaultProxy("127.0.0.1", echo.port) as first:
        port = first.port
    async with FaultProxy("127.0.0.1", echo.port, listen=port) as second:
        assert second.port == port
        streams = await connect(second)
        assert await echoed(streams, b"x") == b"x"
        await close(streams)

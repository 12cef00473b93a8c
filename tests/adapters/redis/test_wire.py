"""What a connection hears, piece by piece, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import pytest
from redis import exceptions as foreign

from unibus.clock import SystemClock
from unibus.driver import Url
from unibus_redis.calls import Calls
from unibus_redis.link import Link
from unibus_redis.nodes import Dedicated, Nodes
from unibus_redis.options import endpoint
from unibus_redis.wire import Wire


class Server:
    """Answers each command with its own words; `SAY x` with x as it is, `HUSH` with nothing, `BYE` by closing."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        commands = hiredis.Reader()
        while data := await reader.read(10_000):
            commands.feed(data)
            while command := commands.gets():
                match command:
                    case [b"SAY", words]:
                        writer.write(words)
                    case [b"HUSH"]:
                        pass
                    case [b"BYE"]:
                        writer.close()
                        return
                    case _:
                        writer.write(b"+%s\r\n" % b" ".join(command))
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()


def nodes_of(server: Server) -> Nodes:
    return Nodes(endpoint(Url(f"redis://127.0.0.1:{server.port}/0")))


@asynccontextmanager
async def wired(server: Server) -> AsyncIterator[tuple[Wire, list[Any], list[Exception]]]:
    heard, lost = list[Any](), list[Exception]()
    wire = Wire(await nodes_of(server).connect(("127.0.0.1", server.port)), heard.append, lost.append)
    yield wire, heard, lost
    await wire.close()


async def until(condition: list[Any]) -> None:
    async with asyncio.timeout(10):
        while not condition:
            await asyncio.sleep(0.001)


async def test_answers_come_in_pieces_and_several_at_once(server: Server) -> None:
    async with wired(server) as (wire, heard, lost):
        wire.data_received(b"$5\r\nhel")
        assert heard == []
        wire.data_received(b"lo\r\n:7\r\n-ERR no\r\n$-1\r\n*2\r\n+a\r\n")
        assert heard[:2] == [b"hello", 7]
        assert isinstance(heard[2], foreign.ResponseError)
        assert heard[3:] == [None]
        wire.data_received(b"*0\r\n")
        assert heard[4:] == [[b"a", []]]
        assert lost == []


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n", b"\x00\x01"])
async def test_what_is_no_answer_ends_it(server: Server, words: bytes) -> None:
    async with wired(server) as (wire, heard, lost):
        wire.data_received(b"+a\r\n" + words)
        assert heard == [b"a"]
        assert [type(error) for error in lost] == [foreign.InvalidResponse]


async def test_its_end_is_told_once(server: Server) -> None:
    async with wired(server) as (wire, _, lost):
        wire.write([hiredis.pack_command(("BYE",))])
        await until(lost)
        assert wire.is_closing()
        wire.data_received(b"?")
        assert [str(error) for error in lost] == ["the server has closed the connection"]


async def test_closed_by_us_it_tells_nobody(server: Server) -> None:
    async with wired(server) as (wire, heard, lost):
        wire.cut()
        wire.data_received(b"+late\r\n")
        await asyncio.sleep(0)  # for the transport, which tells it
        assert (heard, lost, wire.is_closing()) == ([], [], True)
        with pytest.raises(foreign.ConnectionError, match="gone"):
            wire.write([b"*1\r\n$1\r\nA\r\n"])


async def test_whoever_gives_it_up_hears_no_more_of_what_has_come(server: Server) -> None:
    heard: list[Any] = []

    def first(reply: Any) -> None:
        heard.append(reply)
        wire.cut()

    wire = Wire(await nodes_of(server).connect(("127.0.0.1", server.port)), first, heard.append)
    wire.data_received(b"+one\r\n+two\r\n")
    assert heard == [b"one"]
    await wire.close()


async def test_an_answer_to_no_request_gives_the_connection_up(server: Server) -> None:
    calls = Calls(endpoint(Url(f"redis://127.0.0.1:{server.port}/0")), SystemClock())
    await calls.open()
    assert await calls.command("key", "SAY", b"+one\r\n+two\r\n") == b"one"
    assert await calls.command("key", "A", "B") == b"A B"
    assert server.connections == 2
    await calls.close()


async def test_a_connection_that_has_just_ended_is_replaced_before_the_next_request(server: Server) -> None:
    node = ("127.0.0.1", server.port)
    made: list[Any] = []

    async def connect() -> Any:
        made.append(await nodes_of(server).connect(node))
        return made[-1]

    link = Link(connect, 5.0, SystemClock())
    await link.ready(0)
    made[0]._writer.transport.abort()  # what the loop tells us in its next round only
    await link.ready(0)
    assert await link.exchange([("A",)]) == [b"A"]
    assert len(made) == 2
    await link.close()


async def test_a_dedicated_connection_that_ended_says_so_whenever_it_is_asked(server: Server) -> None:
    own = Dedicated(await nodes_of(server).connect(("127.0.0.1", server.port)), 5.0)
    assert await own.ask(hiredis.pack_command(("A",))) == b"A"
    for _ in range(2):
        with pytest.raises(foreign.ConnectionError, match="closed the connection"):
            await own.ask(hiredis.pack_command(("BYE",)))
    await own.close()


async def test_a_dedicated_connection_does_not_wait_for_ever(server: Server) -> None:
    own = Dedicated(await nodes_of(server).connect(("127.0.0.1", server.port)), 0.05)
    with pytest.raises(foreign.TimeoutError, match=r"within 0\.1 s"):
        await own.ask(hiredis.pack_command(("HUSH",)), waits=0.05)
    await own.close()

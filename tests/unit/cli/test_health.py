"""`/live` and `/ready`, by the answer to a request and over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from unibus import ConfigurationError
from unibus.cli.health import HOST, health_server, respond
from unibus.health import Health

WELL = Health(live=True, ready=True)
BUSY = Health(live=True, ready=False, reasons=("orders: no progress for 60 s",))
GONE = Health(live=False, ready=False, reasons=("the bus is not open",))


def answer(request: str, health: Health = WELL) -> tuple[int, Any]:
    head, _, body = respond(request.encode(), lambda: health).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert headers["Content-Type"] == "application/json"
    if body:
        assert int(headers["Content-Length"]) == len(body)
    return int(lines[0].split(" ")[1]), json.loads(body) if body else None


@pytest.mark.parametrize(
    ("path", "health", "status"),
    [
        ("/live", WELL, 200),
        ("/ready", WELL, 200),
        ("/live", BUSY, 200),
        ("/ready", BUSY, 503),
        ("/live", GONE, 503),
        ("/ready?verbose", BUSY, 503),
    ],
)
def test_the_status_follows_the_health(path: str, health: Health, status: int) -> None:
    code, body = answer(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n", health)
    assert code == status
    assert body == {"live": health.live, "ready": health.ready, "reasons": list(health.reasons)}


def test_other_paths_and_methods() -> None:
    assert answer("GET / HTTP/1.1\r\n\r\n")[0] == 404
    assert answer("POST /live HTTP/1.1\r\n\r\n")[0] == 405
    assert answer("HEAD /live HTTP/1.1\r\n\r\n") == (200, None)
    assert answer("\xff\x00garbage\r\n\r\n")[0] == 404


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request)
    writer.write_eof()
    answered = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answered


async def test_over_a_socket(free_port: int) -> None:
    async with health_server(lambda: WELL, free_port):
        good = await ask(free_port, b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert good.startswith(b"HTTP/1.1 200 OK\r\n")
        # Whoever hangs up, or speaks something else, disturbs nobody.
        assert await ask(free_port, b"GET /re") == b""
        assert await ask(free_port, b"x" * 100_000) == b""
        assert (await ask(free_port, b"GET /live HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    with pytest.raises(ConnectionRefusedError):
        await ask(free_port, b"")


async def test_a_port_in_use_is_named() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"--health-port: 127.0.0.1:{port} cannot be used .*in use"):
            async with health_server(lambda: WELL, port):
                pass

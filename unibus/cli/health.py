"""The health of a bus over HTTP, for whoever supervises the process: `/live` and `/ready`, 200 or 503.

It runs on the loop of the bus, on purpose: a loop that a handler blocks does not answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Protocol

from unibus import ConfigurationError

HOST = "127.0.0.1"
_LONGEST_REQUEST = 8192
_PATIENCE = 5.0


class Health(Protocol):
    """What `bus.health()` returns."""

    @property
    def live(self) -> bool: ...
    @property
    def ready(self) -> bool: ...
    @property
    def reasons(self) -> Sequence[str]: ...


@asynccontextmanager
async def health_server(health: Callable[[], Health], port: int) -> AsyncIterator[None]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(respond(head, health))
                await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # Nobody to answer to: the caller left, was too slow, or does not speak HTTP.
            writer.transport.abort()
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, HOST, port, limit=_LONGEST_REQUEST)
    except OSError as error:
        raise ConfigurationError(
            f"--health-port: {HOST}:{port} cannot be used ({error.strerror or error}); choose another port"
        ) from error
    try:
        yield
    finally:
        server.close()


def respond(head: bytes, health: Callable[[], Health]) -> bytes:
    """The whole answer to the head of a request."""
    method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    if path not in ("/live", "/ready"):
        return _response(HTTPStatus.NOT_FOUND, {"error": "there is /live and /ready"}, method)
    if method not in ("GET", "HEAD"):
        return _response(HTTPStatus.METHOD_NOT_ALLOWED, {"error": "use GET"}, method)
    now = health()
    good = now.live if path == "/live" else now.ready
    status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
    return _response(status, {"live": now.live, "ready": now.ready, "reasons": list(now.reasons)}, method)


def _response(status: HTTPStatus, content: dict[str, object], method: str) -> bytes:
    body = json.dumps(content).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == "HEAD" else body)

"""Ask a server whether it serves: the first words of its protocol, and its version where they tell it."""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import Callable
from typing import TypeAlias
from urllib.parse import SplitResult, unquote, urlsplit

Probe: TypeAlias = Callable[[SplitResult], str | None]
"""None: it does not serve yet; else its version, or "" if it does not tell."""


def probe(url: str, ask: Probe) -> str | None:
    try:
        return ask(urlsplit(url))
    except (OSError, ValueError, struct.error):
        return None


def amqp(url: SplitResult) -> str | None:
    """The server's `connection.start` has its properties."""
    with _connected(url, 5672) as peer:
        peer.sendall(b"AMQP\x00\x00\x09\x01")
        kind, _, size = struct.unpack(">BHI", _exactly(peer, 7))
        start = _exactly(peer, size)
    version = re.search(rb"\x07versionS....([0-9.]+)", start, re.DOTALL)
    return version[1].decode() if kind == 1 and version else None


def redis(url: SplitResult) -> str | None:
    with _connected(url, 6379) as peer:
        if url.password:
            words = ["AUTH", *([url.username] if url.username else []), unquote(url.password)]
            peer.sendall(_command(*words))
            if not peer.recv(1024).startswith(b"+OK"):
                return None
        peer.sendall(_command("INFO", "server") + _command("PING"))
        answer = b""
        while not answer.endswith(b"+PONG\r\n"):
            if not (chunk := peer.recv(65536)) or b"LOADING" in chunk:
                return None
            answer += chunk
    version = re.search(rb"redis_version:(\S+)", answer)
    return version[1].decode() if version else ""


def kafka(url: SplitResult) -> str | None:
    """It serves when its metadata names a broker that can take topics: itself."""
    with _connected(url, 9092) as peer:
        client = b"probe"
        header = struct.pack(">hhih", 3, 4, 1, len(client)) + client  # Metadata, version 4, of no topic
        request = header + struct.pack(">i?", 0, False)
        peer.sendall(struct.pack(">i", len(request)) + request)
        (size,) = struct.unpack(">i", _exactly(peer, 4))
        _, _, brokers = struct.unpack(">iii", _exactly(peer, size)[:12])
    return "" if brokers > 0 else None


def postgresql(url: SplitResult) -> str | None:
    """Of what it says to a client that logs in: its version, and that it is ready for a query."""
    with _connected(url, 5432) as peer:
        words = ["user", url.username or "postgres", "database", url.path.strip("/") or "postgres", ""]
        start = struct.pack(">i", 196608) + "\0".join(words).encode() + b"\0"
        peer.sendall(struct.pack(">i", len(start) + 4) + start)
        version = ""
        while True:
            kind, size = struct.unpack(">ci", _exactly(peer, 5))
            content = _exactly(peer, size - 4)
            if kind == b"E":
                return None
            if kind == b"S" and content.startswith(b"server_version\0"):
                version = content.split(b"\0")[1].decode()
            if kind == b"Z":
                return version


def moto(url: SplitResult) -> str | None:
    status, body = _got(url, 5000, "/moto-api/data.json")
    return "" if status == 200 and isinstance(json.loads(body), dict) else None


def elasticmq(url: SplitResult) -> str | None:
    status, body = _got(url, 9324, "/?Action=ListQueues")
    return "" if status == 200 and b"<ListQueuesResponse" in body else None


def _got(url: SplitResult, default: int, path: str) -> tuple[int, bytes]:
    """The status and the body."""
    with _connected(url, default) as peer:
        peer.sendall(f"GET {path} HTTP/1.0\r\nHost: {url.netloc}\r\n\r\n".encode())
        answer = b""
        while chunk := peer.recv(65536):
            answer += chunk
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head[9:12]), body


def _connected(url: SplitResult, default: int) -> socket.socket:
    return socket.create_connection((url.hostname or "127.0.0.1", url.port or default), timeout=2)


def _exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (chunk := peer.recv(size - len(data))):
            raise OSError("closed")
        data += chunk
    return data


def _command(*words: str) -> bytes:
    encoded = [word.encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded)

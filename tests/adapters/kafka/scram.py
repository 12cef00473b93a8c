"""Users for SCRAM, which a cluster keeps itself: the request for it, which the client library has not."""

from __future__ import annotations

import hashlib
import secrets
import socket
import struct

_ALTER_USER_SCRAM_CREDENTIALS = 51
_MECHANISMS = {"sha256": 1, "sha512": 2}
_ITERATIONS = 4096
_NO_TAGS = b"\0"
_HEADER = struct.pack(">hhih", _ALTER_USER_SCRAM_CREDENTIALS, 0, 1, -1) + _NO_TAGS


def add_user(address: tuple[str, int], user: str, password: str) -> None:
    """For both mechanisms."""
    with socket.create_connection(address, timeout=30) as peer, peer.makefile("rb") as answers:
        for digest in _MECHANISMS:
            request = _HEADER + _many(0) + _many(1) + _change(user, password, digest) + _NO_TAGS
            peer.sendall(struct.pack(">i", len(request)) + request)
            (size,) = struct.unpack(">i", answers.read(4))
            answer = answers.read(size)
            fine = _many(1) + _text(user.encode()) + b"\0\0" + b"\0" + _NO_TAGS + _NO_TAGS
            assert answer.endswith(fine), answer  # of the user: its error, and what it says


def _change(user: str, password: str, digest: str) -> bytes:
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac(digest, password.encode(), salt, _ITERATIONS)
    kind = struct.pack(">bi", _MECHANISMS[digest], _ITERATIONS)
    return _text(user.encode()) + kind + _text(salt) + _text(salted) + _NO_TAGS


def _text(value: bytes) -> bytes:
    return _many(len(value)) + value


def _many(count: int) -> bytes:
    """Of a text or a list. One more is written, since 0 is none at all; from 127 on it would take a second byte."""
    assert count < 127
    return bytes([count + 1])

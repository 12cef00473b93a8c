"""Ports that are one broker's alone for as long as the process that asked for them lives.

That a port is free says nothing of the next second: brokers that start side by side would take each other's.
"""

from __future__ import annotations

import os
import random
import socket
from contextlib import closing
from typing import Final

from tests.brokers.errors import BrokerUnavailable
from tests.brokers.places import CACHE, try_lock

MOST: Final = 20
"""How many one broker may have."""
# Below the range of which systems give ports to connections that go out: else a client that connects while the
# broker is down may be given the broker's own port, and so connect with itself.
FIRSTS: Final = range(20000, 30000, MOST)


def reserve(count: int) -> int:
    """The first of `count` in a row, which stay the broker's when it is stopped."""
    assert count <= MOST
    folder = CACHE / "ports"
    folder.mkdir(parents=True, exist_ok=True)
    for first in random.sample(FIRSTS, len(FIRSTS)):
        lock = os.open(folder / str(first), os.O_CREAT | os.O_RDWR)
        if try_lock(lock) and all(_is_free(port) for port in range(first, first + count)):
            return first  # the lock stays open, and so ours, until the process ends
        os.close(lock)
    raise BrokerUnavailable(f"no {count} ports in a row are free between {FIRSTS[0]} and {FIRSTS[-1]}")


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probing:
        probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probing.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

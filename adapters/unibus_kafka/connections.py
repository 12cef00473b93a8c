"""Connections that have just ended: the library takes them for sound until its reader has been told.

What is written to one is lost without a word, or, on uvloop, a RuntimeError that the library does not expect: the task
that keeps its metadata fresh would die of it, and with it every later look for a leader or a coordinator.
"""

from __future__ import annotations

from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.conn import CloseReason


def shun_ended(client: AIOKafkaClient) -> None:
    """Let this client replace a connection whose transport is closing, instead of writing to it."""
    connection_to = client._get_conn

    async def sound_connection_to(node: Any, **how: Any) -> Any:
        connection = await connection_to(node, **how)
        writer = connection._writer if connection is not None else None
        if writer is not None and writer.transport.is_closing():
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            connection = await connection_to(node, **how)
        return connection

    client._get_conn = sound_connection_to

"""A connection that stands, read where the loop reads it: no task and no stream between the socket and who waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis import exceptions as foreign
from redis.asyncio.connection import Connection, SSLConnection

from unibus_redis.failures import is_answer

_MORE = object()
"""What the parser says when the rest of an answer is still to come."""


class Wire(asyncio.Protocol):
    """Takes the transport over from the client's connection, which has greeted the server and waits for nothing.

    heard: told each answer, an error of the server among them. lost: told, once, why no more come. Neither after `cut`.
    """

    def __init__(
        self,
        connection: Connection | SSLConnection,
        heard: Callable[[Any], None],
        lost: Callable[[Exception], None],
    ) -> None:
        writer = connection._writer
        if writer is None:
            raise foreign.ConnectionError("the connection is gone")
        self._connection = connection
        self._heard = heard
        self._lost = lost
        self._listening = True
        self._replies = hiredis.Reader(
            protocolError=foreign.InvalidResponse,
            replyError=cast("Callable[[str], Exception]", connection._parser.parse_error),
            notEnoughData=_MORE,
        )
        self._transport = cast("asyncio.Transport", writer.transport)
        self._transport.set_protocol(self)

    def write(self, packed: Sequence[bytes]) -> None:
        """Raises a foreign error, and has written nothing, if it has ended."""
        if self._transport.is_closing():
            raise foreign.ConnectionError("the connection is gone")
        self._transport.writelines(packed)

    def is_closing(self) -> bool:
        """Whether it has ended, though `lost` may not have been told yet."""
        return self._transport.is_closing()

    def cut(self) -> None:
        """Nothing more is heard, and what the socket has not taken yet does not leave."""
        self._listening = False
        self._transport.abort()

    async def close(self) -> None:
        """Like `cut`, and the client's connection knows."""
        self.cut()
        await self._connection.disconnect(nowait=True)

    # --- called by the loop ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        replies = self._replies
        try:
            replies.feed(data)
            while self._listening and (reply := replies.gets()) is not _MORE:
                if isinstance(reply, foreign.RedisError) and not is_answer(reply):
                    raise reply
                self._heard(reply)
        except foreign.RedisError as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(foreign.ConnectionError(str(exc) if exc is not None else "the server has closed the connection"))

    def _end(self, error: Exception) -> None:
        if self._listening:
            self._listening = False
            self._lost(error)

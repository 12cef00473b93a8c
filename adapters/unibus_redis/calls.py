"""One way to the server: a pool of connections, commands and scripts, one answer each, nothing sent twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from redis import exceptions as foreign
from redis.asyncio.connection import BlockingConnectionPool, Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from unibus.driver import Clock, Url
from unibus.errors import ConfigurationError
from unibus_redis.failures import FOREIGN, translate

_CONNECTIONS = 32
_REFUSED = (foreign.AuthenticationError, foreign.AuthorizationError)
_AWAY = (foreign.ConnectionError, foreign.TimeoutError, foreign.BusyLoadingError, OSError)

Argument = str | bytes | int | float


@lru_cache(maxsize=64)
def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


class Calls:
    """timeout: seconds within which an answer comes, unless a call says more.

    The client's own retries are off: a call whose answer was lost is not repeated in silence, since
    a write would happen twice and a read would leave what it took with nobody.
    """

    def __init__(self, url: Url, timeout: float) -> None:
        path = url.path.strip("/")
        if path and not path.isdigit():
            raise ConfigurationError(f"{url}: the path is the number of a database, as in redis://host:6379/0")
        self._timeout = timeout
        self._where = f"{url.host or 'localhost'}:{url.port or 6379}"
        self._pool: Any = BlockingConnectionPool(
            max_connections=_CONNECTIONS,
            timeout=timeout,
            connection_class=Connection,
            host=url.host or "localhost",
            port=url.port or 6379,
            db=int(path or 0),
            username=url.username or None,
            password=url.password,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )

    async def command(self, *words: Argument, waits: float = 0.0) -> Any:
        """The answer. waits: seconds that the server may take on purpose. Raises errors of ours."""
        try:
            connection = await self._pool.get_connection()
            try:
                return await self._exchange(connection, words, waits)
            finally:
                await self._pool.release(connection)
        except FOREIGN as error:
            raise translate(error, f"{words[0]!s} at {self._where}") from error

    async def script(self, text: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Like `command`, for a script."""
        try:
            return await self.write(text, keys, arguments)
        except FOREIGN as error:
            raise translate(error, f"a script at {self._where}") from error

    async def connection(self, clock: Clock) -> Any:
        """A connection that stands, to be given to `write`: as long as nothing has left, a server that
        comes back within the timeout is no error. Raises foreign errors."""
        deadline, wait = clock.monotonic() + self._timeout, 0.02
        while True:
            try:
                return await self._pool.get_connection()
            except _AWAY as error:
                if isinstance(error, _REFUSED) or clock.monotonic() + wait > deadline:
                    raise
            await clock.sleep(wait)
            wait = min(2 * wait, 0.5)

    async def write(self, text: str, keys: Sequence[str], arguments: Sequence[Argument], connection: Any = None) -> Any:
        """Run a script. Raises foreign errors."""
        if connection is None:
            connection = await self._pool.get_connection()
        try:
            rest = (len(keys), *keys, *arguments)
            try:
                return await self._exchange(connection, ("EVALSHA", _sha(text), *rest), 0.0)
            except foreign.NoScriptError:
                return await self._exchange(connection, ("EVAL", text, *rest), 0.0)
        finally:
            await self._pool.release(connection)

    async def close(self) -> None:
        await self._pool.disconnect()

    async def _exchange(self, connection: Any, words: Sequence[Argument], waits: float) -> Any:
        await connection.send_command(*words)
        return await connection.read_response(timeout=self._timeout + waits)

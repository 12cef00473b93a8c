"""Which server has a key: the one of the URL, the master that sentinels name, or a node of a cluster."""

from __future__ import annotations

import asyncio
from typing import Any

from redis import exceptions as foreign
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

from unibus_redis.failures import FOREIGN
from unibus_redis.options import Endpoint
from unibus_redis.wire import Wire

Node = tuple[str, int]

_CONNECT_WITHIN = 4.0


class Nodes:
    """Finds the server of a key, and connects. Raises foreign errors."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._slots: list[tuple[int, int, Node]] = []
        self._seen: dict[Node, None] = dict.fromkeys(endpoint.hosts)
        self._tls: dict[str, Any] = {}
        if endpoint.tls:
            options = endpoint.options
            self._tls = {
                "ssl_ca_certs": options.cafile,
                "ssl_certfile": options.certfile,
                "ssl_keyfile": options.keyfile,
                "ssl_cert_reqs": "none" if options.insecure else "required",
                "ssl_check_hostname": not options.insecure,
            }

    async def of(self, key: str) -> Node:
        if self.endpoint.mode == "sentinel":
            return ("", 0)  # whoever is the master when a connection is made
        if self.endpoint.mode == "single":
            return self.endpoint.hosts[0]
        if not self._slots:
            await self._learn()
        slot = key_slot(key.encode())
        for first, last, node in self._slots:
            if first <= slot <= last:
                return node
        raise foreign.ClusterDownError("no node serves the slot", status_code="CLUSTERDOWN")

    def forget(self) -> None:
        """They have moved: learn anew at the next question."""
        self._slots = []

    async def connect(self, node: Node) -> Connection:
        if self.endpoint.mode == "sentinel":
            node = await self._master()
        connection = self._made(node, self.endpoint.url.username, self.endpoint.url.password, self.endpoint.database)
        return await _connected(connection)

    async def _master(self) -> Node:
        """What the first sentinel says that knows it."""
        options = self.endpoint.options
        last: Exception = foreign.ConnectionError("no sentinel is known")
        for sentinel in self.endpoint.hosts:
            try:
                answer = await self._asked(
                    self._made(sentinel, options.sentinel_username, options.sentinel_password, 0),
                    "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.endpoint.service,
                )  # fmt: skip
            except FOREIGN as error:
                last = error
                continue
            if answer:
                return answer[0].decode(), int(answer[1])
            last = foreign.ConnectionError(f"the sentinel knows no master {self.endpoint.service!r}")
        raise last

    async def _learn(self) -> None:
        """From the first node that answers."""
        last: Exception = foreign.ConnectionError("no node of the cluster is known")
        for node in self._seen:
            try:
                connection = self._made(node, self.endpoint.url.username, self.endpoint.url.password, 0)
                ranges = await self._asked(connection, "CLUSTER", "SLOTS")
            except FOREIGN as error:
                last = error
                continue
            self._slots = [
                (first, last_slot, (master[0].decode() or node[0] if master[0] else node[0], master[1]))
                for first, last_slot, master, *_ in ranges
            ]
            self._seen.update((node, None) for _, _, node in self._slots)
            return
        raise last

    async def _asked(self, connection: Connection, *words: str) -> Any:
        await _connected(connection)
        try:
            await connection.send_command(*words, check_health=False)
            return await connection.read_response()
        finally:
            await connection.disconnect(nowait=True)

    def _made(self, node: Node, username: str | None, password: str | None, database: int) -> Connection:
        timeout = self.endpoint.options.timeout
        arguments: dict[str, Any] = {
            "host": node[0],
            "port": node[1],
            "db": database,
            "username": username or None,
            "password": password,
            "socket_timeout": timeout,
            "socket_connect_timeout": min(timeout, _CONNECT_WITHIN),
            # What was sent is never repeated in silence: a write would happen twice, a read lose what it took.
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
        }
        return SSLConnection(**arguments, **self._tls) if self._tls else Connection(**arguments)


async def _connected(connection: Connection) -> Connection:
    """Greeted, too: a server that wants a password, or still loads, says so only when it is asked something."""
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
        await connection.send_command("PING", check_health=False)
        await connection.read_response()
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


class Dedicated:
    """A connection with one user, who writes a command and waits for its answer.

    timeout: seconds within which an answer comes, beside what the server may take on purpose.
    """

    def __init__(self, connection: Connection, timeout: float) -> None:
        self._wire = Wire(connection, self._heard, self._lost)
        self._timeout = timeout
        self._answer: asyncio.Future[Any] | None = None
        self._gone: Exception | None = None

    async def ask(self, packed: bytes, waits: float = 0.0) -> Any:
        """Raises foreign errors. After any but an answer of the server the connection is of no use any more."""
        if self._gone is not None:
            raise self._gone
        within = self._timeout + waits
        self._answer = asyncio.get_running_loop().create_future()
        self._wire.write([packed])
        try:
            async with asyncio.timeout(within):
                reply = await self._answer
        except TimeoutError as late:
            raise foreign.TimeoutError(f"no answer within {within:g} s") from late
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def close(self) -> None:
        await self._wire.close()

    def _heard(self, reply: Any) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(reply)

    def _lost(self, error: Exception) -> None:
        self._gone = error
        self._heard(error)

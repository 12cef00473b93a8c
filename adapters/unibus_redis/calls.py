"""All requests but reads: commands and scripts, each to the server that has its keys, none sent twice in silence."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from redis import exceptions as foreign

from unibus.driver import Clock
from unibus_redis.failures import FOREIGN, PASSING, Unreached, code_of, is_refusal, translate
from unibus_redis.link import Argument, Command, Link
from unibus_redis.nodes import Dedicated, Node, Nodes
from unibus_redis.options import Endpoint

_PATIENCE = 3.0
"""Seconds at most, within which a server that turns requests away may come to its senses, or another take over."""
_PAUSE = 0.1
_ONE_NODE = 1.0
"""Seconds to try to reach one node of a cluster, before asking the others who serves its slots now."""


class Script:
    """Lua text, called by its hash."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], arguments: Sequence[Argument]) -> Command:
        return ("EVALSHA", self.sha, len(keys), *keys, *arguments)

    def in_full(self, command: Command) -> Command:
        return ("EVAL", self.text, *command[2:])


class Calls:
    """width: connections to each server; several where a call holds up its connection, waiting for a disk."""

    def __init__(self, endpoint: Endpoint, clock: Clock, width: int = 1) -> None:
        self.nodes = Nodes(endpoint)
        self._timeout = endpoint.options.timeout
        self._moving = endpoint.mode == "cluster"
        self._clock = clock
        self._width = width
        self._links: dict[Node, list[Link]] = {}
        shown = ",".join(f"{host}:{port}" for host, port in endpoint.hosts)
        self.where = f"{endpoint.service} of {shown}" if endpoint.service else shown

    async def open(self) -> None:
        """One attempt. Raises AccessDenied or ConnectionLost."""
        try:
            await self._link(await self.nodes.of("")).ready(0)
        except (Unreached, *FOREIGN) as error:
            raise translate(error, f"connecting to {self.where}") from error

    async def command(self, key: str, *words: Argument, waits: float = 0.0) -> Any:
        """The answer of the server that has the key. Raises errors of ours."""
        try:
            return (await self.request(key, [words], waits=waits))[0]
        except (Unreached, *FOREIGN) as error:
            raise translate(error, f"{words[0]!s} {key} at {self.where}") from error

    async def script(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Like `command`."""
        try:
            return (await self.request(keys[0], [script.call(keys, arguments)], script))[0]
        except (Unreached, *FOREIGN) as error:
            raise translate(error, f"a script on {keys[0]} at {self.where}") from error

    async def request(
        self, key: str, commands: Sequence[Command], script: Script | None = None, waits: float = 0.0
    ) -> list[Any]:
        """All answers; those after the first may be errors. script: the one that the first command calls.

        A server that is away, or turns the request away, is waited for as long as nothing was done. Raises Unreached
        then, a foreign error where the server refused the first command or nobody knows what became of it.
        """
        deadline = self._clock.monotonic() + self._timeout
        patience = self._clock.monotonic() + min(self._timeout, _PATIENCE)
        while True:
            try:
                link = self._link(await self.nodes.of(key))
                left = max(deadline - self._clock.monotonic(), 0.0)
                await link.ready(min(left, _ONE_NODE) if self._moving else left)
            except (Unreached, *FOREIGN) as error:
                if is_refusal(error) or self._clock.monotonic() + _PAUSE > deadline:
                    raise error if isinstance(error, Unreached) else Unreached(error) from error
                self.nodes.forget()
                await self._clock.sleep(_PAUSE)
                continue
            replies = await link.exchange(commands, waits)
            refused = replies[0]
            if not isinstance(refused, Exception):
                return replies
            if isinstance(refused, foreign.NoScriptError) and script is not None:
                commands = [script.in_full(commands[0]), *commands[1:]]
                continue
            if code_of(refused) not in PASSING:
                raise refused
            if self._clock.monotonic() > patience:
                raise Unreached(refused)
            self._turned_away(link, refused)
            await self._clock.sleep(_PAUSE)

    async def dedicated(self, key: str) -> Dedicated:
        """A connection of its own to the server that has the key. Raises foreign errors."""
        return Dedicated(await self.nodes.connect(await self.nodes.of(key)), self._timeout)

    async def close(self) -> None:
        for link in self._all():
            await link.close()

    def _all(self) -> list[Link]:
        return [link for links in self._links.values() for link in links]

    def _link(self, node: Node) -> Link:
        """The least busy."""
        links = self._links.setdefault(node, [])
        for link in links:
            if not link.in_flight:
                return link
        if len(links) < self._width:
            links.append(Link(lambda: self.nodes.connect(node), self._timeout, self._clock))
            return links[-1]
        return min(links, key=lambda link: link.in_flight)

    def _turned_away(self, link: Link, refused: Exception) -> None:
        """Look anew where the keys are: a moved slot, or a master that has become a replica."""
        self.nodes.forget()
        if code_of(refused) in ("READONLY", "MASTERDOWN"):
            link.drop(str(refused))

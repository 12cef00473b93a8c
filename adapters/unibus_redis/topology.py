"""Declaring, verifying and measuring what the server keeps for us."""

from __future__ import annotations

from collections.abc import Callable

from unibus.driver import Address, Depth, Source, Topic, TopicSubscription
from unibus.errors import DestinationNotFound, DriverError, TopologyMismatch
from unibus_redis import keys, scripts
from unibus_redis.calls import Calls
from unibus_redis.failures import FOREIGN, Unreached, code_of, translate
from unibus_redis.link import Argument
from unibus_redis.registry import described


def missing(address: Address) -> DestinationNotFound:
    return DestinationNotFound(f"{address} does not exist; start its consumer once, which creates it")


class Topology:
    """stream: the key of a source. registers: whether groups are told to publishers; else they listen to channels."""

    def __init__(self, calls: Calls, stream: Callable[[Source], str], *, registers: bool) -> None:
        self._calls = calls
        self._stream = stream
        self._registers = registers
        self._made: set[Source] = set()

    async def create(self, address: Source | Topic) -> None:
        """Of a group the patterns of its last declaration count: those of earlier are replaced."""
        if isinstance(address, Topic):
            return  # a topic exists in the patterns of its groups alone
        await self._declare(address, replace=True)
        self._made.add(address)

    async def restore(self, address: Source) -> None:
        """Somebody has deleted it. Patterns that a newer release has declared meanwhile stay."""
        await self._declare(address, replace=False)

    async def assure(self, address: Source) -> None:
        """A group whose registration alone is gone would get nothing, and nobody would be told."""
        if self._registers and isinstance(address, TopicSubscription):
            await self._declare(address, replace=False)

    async def mend(self, address: Source) -> None:
        """If it was made here."""
        if address in self._made:
            await self.restore(address)

    async def register(self, subscription: TopicSubscription, stream: str, life: float, *, replace: bool) -> None:
        """life: seconds for which the stream lives on without its subscriber, 0 for ever."""
        text = described(subscription)
        where = [stream, keys.VERSION, keys.GROUPS]
        arguments: list[Argument] = [text, int(life * 1000), "replace" if replace else "keep"]
        was = await self._calls.script(scripts.DECLARE_GROUP, where, arguments)
        if was:
            raise _mismatch(subscription, was.decode(), text)

    async def _declare(self, address: Source, *, replace: bool) -> None:
        stream = self._stream(address)
        if self._registers and isinstance(address, TopicSubscription):
            await self.register(address, stream, 0.0, replace=replace)
            return
        was = await self._calls.script(scripts.DECLARE_QUEUE, [stream, keys.declared(stream)], [address.ordering])
        if was:
            raise _mismatch(address, _ordering(was.decode()), _ordering(address.ordering))

    async def forget(self, stream: str) -> None:
        """Of a subscription without a group. A server that is away forgets it by itself, when its life ends."""
        try:
            await self._calls.script(scripts.FORGET_GROUP, [stream, keys.VERSION, keys.GROUPS], [])
        except DriverError:
            return

    async def look_for(self, address: Source) -> str:
        """Its stream. Raises DestinationNotFound, or TopologyMismatch if it is something else."""
        stream = self._stream(address)
        kind = await self._calls.command(stream, "TYPE", stream)
        if kind == b"none":
            raise missing(address)
        if kind != b"stream":
            raise TopologyMismatch(
                f"{address}: the key {stream!r} holds a {kind.decode()}, not a stream; use another name, or delete it"
            )
        return stream

    async def verify(self, address: Source | Topic) -> None:
        if isinstance(address, Topic):
            return
        stream = await self.look_for(address)
        if self._registers and isinstance(address, TopicSubscription):
            was, wanted = await self._calls.command(keys.GROUPS, "HGET", keys.GROUPS, stream), described(address)
            if was is not None and was.decode() != wanted:
                raise _mismatch(address, was.decode(), wanted)
            return
        was = await self._calls.command(stream, "GET", keys.declared(stream))
        if was is not None and was.decode() != address.ordering:
            raise _mismatch(address, _ordering(was.decode()), _ordering(address.ordering))

    async def depth(self, source: Source) -> Depth:
        stream = self._stream(source)
        commands = [
            ("XLEN", stream), ("XPENDING", stream, scripts.GROUP), ("ZCARD", keys.delayed(stream)),
            ("XRANGE", stream, "-", "+", "COUNT", 1), ("TIME",),
        ]  # fmt: skip
        try:
            answers = await self._calls.request(stream, commands)
            failed = [answer for answer in answers if isinstance(answer, Exception) and code_of(answer) != "NOGROUP"]
            if failed:
                raise failed[0]
        except (Unreached, *FOREIGN) as error:
            raise translate(error, f"measuring {stream} at {self._calls.where}") from error
        stored, pending, delayed, first, now = answers
        if isinstance(pending, Exception):
            if not stored:
                raise missing(source)
            pending = [0]
        age = max(int(now[0]) - int(first[0][0].partition(b"-")[0]) / 1000, 0.0) if first else None
        in_flight = int(pending[0])
        return Depth(ready=max(stored - in_flight, 0), in_flight=in_flight, delayed=delayed, oldest_age=age)


def _ordering(value: str) -> str:
    return f"ordering={value!r}"


def _mismatch(address: Address, was: str, wanted: str) -> TopologyMismatch:
    return TopologyMismatch(f"{address} exists with {was}, not with {wanted}; use what exists, or another name")

"""What leaves: a batch is one script call, and what it waits for (disk, replicas) goes in the same breath."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

from unibus.driver import Clock, Outbound
from unibus.errors import BatchError, OutcomeUnknown
from unibus_redis import context, keys, scripts
from unibus_redis.calls import Calls, Script
from unibus_redis.entries import fields_of, is_plain
from unibus_redis.failures import FOREIGN, Unreached, of_send, translate
from unibus_redis.link import Argument, Command
from unibus_redis.options import Options
from unibus_redis.registry import Registry

_TOLD_FOR = 30.0
"""Seconds for which it is taken as known that those who forward everything know a stream."""


class Sending:
    def __init__(self, calls: Calls, options: Options, clock: Clock) -> None:
        self._calls = calls
        self._options = options
        self._clock = clock
        self._registry = Registry(calls)
        self._told: dict[str, float] = {}
        self._prefix = os.urandom(8).hex()
        self._numbers = count()
        milliseconds = int(options.timeout * 1000)
        self._tail: list[Command] = []
        if options.fsync:
            self._tail.append(("WAITAOF", 1, 0, milliseconds))
        if options.replicas:
            self._tail.append(("WAIT", options.replicas, milliseconds))
        self._waits = options.timeout * len(self._tail)

    async def store(self, stream: str, messages: Sequence[Outbound]) -> bool:
        """Into one stream; those with a delay when they are due. False: there is no such stream.

        Raises BatchError.
        """
        later = [index for index, message in enumerate(messages) if message.delay > 0]
        if not later:
            return await self._now(stream, messages, range(len(messages)), len(messages))
        waiting = set(later)
        now = [index for index in range(len(messages)) if index not in waiting]
        errors: dict[int, Exception] = {}
        stored = True
        for part, indices in ((self._later, later), (self._now, now)):
            if not indices:
                continue
            try:
                stored &= await part(stream, [messages[index] for index in indices], indices, len(messages))
            except BatchError as failed:
                errors.update(failed.errors)
        if errors:
            raise BatchError(errors, len(messages))
        return stored

    async def publish(self, messages: Sequence[Outbound], topic: str) -> None:
        """Into the stream of each group that wants it. Raises BatchError."""
        everything = range(len(messages))
        try:
            answers = await self._registry.publish(messages, topic, self._tail, self._waits)
        except (Unreached, *FOREIGN) as error:
            raise self._failed(error, everything, len(messages)) from error
        self._check_kept(answers, everything, len(messages))

    # --- inside ---------------------------------------------------------------------------------------

    async def _now(self, stream: str, messages: Sequence[Outbound], indices: Iterable[int], total: int) -> bool:
        arguments: list[Argument] = []
        if all(map(is_plain, messages)):
            for message in messages:
                arguments += (context.write(message, message.topic), message.body or b"")
            script = scripts.SEND
        else:
            for message in messages:
                fields = fields_of(message, message.topic)
                arguments += [len(fields), *fields]
            script = scripts.SEND_FIELDS
        return await self._call(script, [stream], arguments, indices, total)

    async def _later(self, stream: str, messages: Sequence[Outbound], indices: Iterable[int], total: int) -> bool:
        await self._tell(stream)
        arguments: list[Argument] = [f"{self._prefix}.{next(self._numbers)}"]
        for message in messages:
            fields = fields_of(message, message.topic)
            arguments += [-int(-message.delay * 1000 // 1), len(fields), *fields]
        return await self._call(scripts.DELAY, [stream, keys.delayed(stream)], arguments, indices, total)

    async def _tell(self, stream: str) -> None:
        """Those who forward everything have to know that there is something to move; consumers know anyway."""
        now = self._clock.monotonic()
        if self._told.get(stream, 0.0) > now:
            return
        try:
            await self._calls.request(keys.DELAYED_STREAMS, [("SADD", keys.DELAYED_STREAMS, stream)])
        except (Unreached, *FOREIGN):
            return  # the message itself fares no better, and says why
        self._told[stream] = now + _TOLD_FOR

    async def _call(
        self, script: Script, stored_in: list[str], arguments: list[Argument], indices: Iterable[int], total: int
    ) -> bool:
        commands = [script.call(stored_in, arguments), *self._tail]
        try:
            stored, *answers = await self._calls.request(stored_in[0], commands, script, self._waits)
        except (Unreached, *FOREIGN) as error:
            raise self._failed(error, indices, total) from error
        self._check_kept(answers, indices, total)
        return bool(stored)

    def _failed(self, error: Exception, indices: Iterable[int], total: int) -> BatchError:
        return BatchError(dict.fromkeys(indices, of_send(error)), total)

    def _check_kept(self, answers: Sequence[Any], indices: Iterable[int], total: int) -> None:
        """What is stored is not where it was asked to be: nobody knows whether it will last."""
        for command, answer in zip(self._tail, answers, strict=True):
            reached = answer[0] if isinstance(answer, list) else answer
            if isinstance(answer, Exception):
                said = str(translate(answer, str(command[0])))
            elif reached < int(command[1]):
                said = f"{command[0]!s} reached {reached} of {command[1]!s} in {self._options.timeout:g} s"
            else:
                continue
            unknown = OutcomeUnknown(f"stored in the server's memory, but {said}: it may be lost with the server")
            raise BatchError(dict.fromkeys(indices, unknown), total)

"""Idempotent: each key's effect happens once, however often its message arrives.

Outside retry, so that a key is done only after success and is released by a failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from unibus.errors import ConfigurationError
from unibus.idempotency.claims import Busy, Claims
from unibus.idempotency.store import Claim, Done, IdempotencyStore, InProgress
from unibus.message import Message
from unibus.options import BatchHandler, BatchMiddleware, F, Handler, Middleware, Surroundings, record
from unibus.outcome import Postponed, seconds

logger = logging.getLogger("unibus.idempotency")

WEEK = 7 * 24 * 3600.0
STORE_DOWN_WAIT = 60.0
"""The longest wait for a store that is down; the core grows towards it from 1 s."""


def _message_id(message: Message[Any]) -> str:
    return message.id


@dataclass(frozen=True, slots=True)
class IdempotentOption:
    key: Callable[[Message[Any]], object]
    store: str | IdempotencyStore | None
    ttl: float
    lease: float
    fail_open: bool

    kind = "idempotent"
    rank = 20

    def single(self, around: Surroundings) -> Middleware:
        claims = around.open_claims(self.store, self.lease, self.ttl)

        def wrap(inner: Handler) -> Handler:
            async def idempotent(message: Message[Any]) -> object:
                key = self._key(message, around)
                claim = await self._claim(claims, key)
                if claim is None:
                    return await inner(message)
                if type(claim) is Done:
                    around.stats.skipped += 1
                    return None
                if (postponed := _postponed(claim)) is not None:
                    raise postponed
                try:
                    result = await inner(message)
                except BaseException:
                    claims.release(key)
                    raise
                await _complete(claims, key)
                return result

            return idempotent

        return wrap

    def batch(self, around: Surroundings) -> BatchMiddleware:
        claims = around.open_claims(self.store, self.lease, self.ttl)

        def wrap(inner: BatchHandler) -> BatchHandler:
            async def idempotent(messages: Sequence[Message[Any]]) -> object:
                keys = [self._key(message, around) for message in messages]
                new = await self._claim_batch(claims, messages, keys, around)
                if not new:
                    return None
                try:
                    result = await inner([message for message, _ in new])
                except BaseException:
                    for _, key in new:
                        claims.release(key)
                    raise
                for message, key in new:
                    if message.mark is not None:
                        claims.release(key)
                await asyncio.gather(*[_complete(claims, key) for message, key in new if message.mark is None])
                return result

            return idempotent

        return wrap

    def _key(self, message: Message[Any], around: Surroundings) -> str:
        return f"{around.scope}:{self.key(message)}"

    async def _claim(self, claims: Claims, key: str) -> Claim | Busy | None:
        """None: the store is down, and the user wants to go on without it."""
        try:
            return await claims.claim(key)
        except Exception as error:
            logger.warning("the idempotency store failed for key %r: %s", key, error)
            if self.fail_open:
                return None
            raise Postponed(STORE_DOWN_WAIT) from error

    async def _claim_batch(
        self, claims: Claims, messages: Sequence[Message[Any]], keys: Sequence[str], around: Surroundings
    ) -> list[tuple[Message[Any], str]]:
        """The messages whose keys are ours now; the others are marked, or are done."""
        try:
            answers = await claims.claim_all(keys)
        except Exception as error:
            logger.warning("the idempotency store failed for a batch of %d keys: %s", len(keys), error)
            if self.fail_open:
                return list(zip(messages, keys, strict=True))
            for message in messages:
                message.mark = Postponed(STORE_DOWN_WAIT)
            return []
        new = []
        for message, key, claim in zip(messages, keys, answers, strict=True):
            if type(claim) is Done:
                around.stats.skipped += 1
            elif (postponed := _postponed(claim)) is not None:
                message.mark = postponed
            else:
                new.append((message, key))
        return new


def _postponed(claim: Claim | Busy) -> Postponed | None:
    """In hand elsewhere: come back when it is free, or when its owner's lease is over."""
    if isinstance(claim, Busy):
        return Postponed(STORE_DOWN_WAIT, claim.freed)
    return Postponed(claim.remaining) if isinstance(claim, InProgress) else None


async def _complete(claims: Claims, key: str) -> None:
    if claims.holds(key) and not await claims.complete(key):
        logger.warning("idempotency key %r was lost while its handler ran: its effect may have happened twice", key)


def idempotent(
    *,
    key: Callable[[Message[Any]], object] = _message_id,
    store: str | IdempotencyStore | None = None,
    ttl: float | timedelta = WEEK,
    lease: float | timedelta = 60.0,
    fail_open: bool = False,
) -> Callable[[F], F]:
    """Pass over messages whose key was handled before.

    key: what makes two messages the same; default the message's id. Scoped by consumer. store: an
    IdempotencyStore, "memory" (this process only, bounded), or None for the bus's own. ttl: seconds
    for which a key stays done, default 7 days. lease: seconds after which the claim of a dead
    process ends; renewed while the handler runs. fail_open: handle without the store while it is
    down; by default the message waits, and no attempt is spent.
    """
    if seconds(ttl) <= 0 or seconds(lease) <= 0:
        raise ConfigurationError(f"idempotent(ttl={ttl}, lease={lease}): both more than 0 seconds")
    option = IdempotentOption(key, store, seconds(ttl), seconds(lease), fail_open)
    return lambda function: record(function, option)

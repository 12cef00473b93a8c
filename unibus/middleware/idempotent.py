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
from unibus.idempotency.store import Done, IdempotencyStore, InProgress, New
from unibus.idempotency.transaction import STORE_DOWN_WAIT, TransactionalStore
from unibus.message import Message
from unibus.middleware.inbox import Beginning
from unibus.options import BatchHandler, BatchMiddleware, F, Handler, Middleware, Surroundings, record
from unibus.outcome import Postponed, seconds

logger = logging.getLogger("unibus.idempotency")

WEEK = 7 * 24 * 3600.0


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

    def refuse_in_transaction(self, asynchronous: bool) -> None:
        """Raises ConfigurationError where its handler cannot act within a transaction of the store."""
        if not asynchronous:
            raise ConfigurationError("a `def` handler runs in a thread, where no session may be used; use `async def`")
        if self.fail_open:
            raise ConfigurationError(
                "idempotent(fail_open=True): without its store the handler has no session; leave fail_open out"
            )

    def single(self, around: Surroundings) -> Middleware:
        if around.transactional:
            return self._beginning(around).single()
        claims = around.open_claims(self.store, self.lease, self.ttl)
        key_of, stats = self._keys(around), around.stats

        def wrap(inner: Handler) -> Handler:
            async def idempotent(message: Message[Any]) -> object:
                key = key_of(message)
                answer = claims.claim(key)
                try:
                    claim = await answer
                except asyncio.CancelledError:
                    claims.give_up(key, answer)
                    raise
                except Exception as error:
                    if not self._goes_on_without(key, error):
                        raise Postponed(STORE_DOWN_WAIT) from error
                    return await inner(message)
                if not isinstance(claim, New):
                    if isinstance(claim, Done):
                        stats.skipped += 1
                        return None
                    raise _postponed(claim)
                try:
                    result = await inner(message)
                except BaseException:
                    claims.release(key)
                    raise
                message.settle_after = claims.complete(key)
                return result

            return idempotent

        return wrap

    def batch(self, around: Surroundings) -> BatchMiddleware:
        if around.transactional:
            return self._beginning(around).batch()
        claims = around.open_claims(self.store, self.lease, self.ttl)
        key_of = self._keys(around)

        def wrap(inner: BatchHandler) -> BatchHandler:
            async def idempotent(messages: Sequence[Message[Any]]) -> object:
                keys = list(map(key_of, messages))
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
                    else:
                        message.settle_after = claims.complete(key)
                return result

            return idempotent

        return wrap

    def _beginning(self, around: Surroundings) -> Beginning:
        store = around.open_store(self.store)
        assert isinstance(store, TransactionalStore)
        return Beginning(store, self._keys(around), self.ttl, around.stats)

    def _keys(self, around: Surroundings) -> Callable[[Message[Any]], str]:
        scope, key_of = around.scope, self.key
        return lambda message: f"{scope}:{key_of(message)}"

    def _goes_on_without(self, key: str, error: Exception) -> bool:
        logger.warning("the idempotency store failed for key %r: %s", key, error)
        return self.fail_open

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
            if isinstance(claim, New):
                new.append((message, key))
            elif isinstance(claim, Done):
                around.stats.skipped += 1
            else:
                message.mark = _postponed(claim)
        return new


def _postponed(claim: InProgress | Busy) -> Postponed:
    """In hand elsewhere: come back when it is free, or when its owner's lease is over."""
    if isinstance(claim, Busy):
        return Postponed(STORE_DOWN_WAIT, claim.freed)
    return Postponed(claim.remaining)


def idempotent(
    *,
    key: Callable[[Message[Any]], object] = _message_id,
    store: str | IdempotencyStore | None = None,
    ttl: float | timedelta = WEEK,
    lease: float | timedelta = 60.0,
    fail_open: bool = False,
) -> Callable[[F], F]:
    """Pass over messages whose key was handled before.

    A handler that takes what the store provides, of a SQL store an `AsyncSession`, acts within the transaction that
    keeps its key: both are kept or neither, so that the effect happens exactly once. There is no lease then.

    key: what makes two messages the same; default the message's id. Scoped by consumer. store: an
    IdempotencyStore, "memory" (this process only, bounded), or None for the bus's own. ttl: seconds
    for which a key stays done, default 7 days. lease: seconds after which the claim of a dead
    process ends; renewed while the handler runs. fail_open: handle without the store while it is
    down; by default the message waits, and no attempt is spent.
    """
    kept, held = seconds(ttl, "idempotent(ttl=…)"), seconds(lease, "idempotent(lease=…)")
    if not (kept and held):
        raise ConfigurationError(f"idempotent(ttl={ttl}, lease={lease}): both more than 0 seconds")
    option = IdempotentOption(key, store, kept, held, fail_open)
    return lambda function: record(function, option)

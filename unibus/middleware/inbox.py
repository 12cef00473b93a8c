"""Inbox: the form of `idempotent` in which the effect and the key are one transaction.

Two layers. The outer one stands where `idempotent` does: it begins the transaction, and what is not committed when it
is left is undone. The inner one commits: inside retry, so that what a commit fails with is judged by the policy like
any other failure, and outside the user's own middlewares, so that what they do belongs to the run.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from unibus.idempotency.store import Done, InProgress
from unibus.idempotency.transaction import STORE_DOWN_WAIT, Inbox, Transaction, TransactionalStore, current_inbox
from unibus.message import Message
from unibus.options import BatchHandler, BatchMiddleware, Handler, Middleware, Surroundings
from unibus.outcome import Postponed
from unibus.stats import ConsumerStats

logger = logging.getLogger("unibus.idempotency")


@dataclass(frozen=True, slots=True)
class Beginning:
    """key_of: the message's key with its scope. ttl: seconds for which it stays done."""

    store: TransactionalStore
    key_of: Callable[[Message[Any]], str]
    ttl: float
    stats: ConsumerStats

    def single(self) -> Middleware:
        running = _Running()

        def wrap(inner: Handler) -> Handler:
            async def inbox(message: Message[Any]) -> object:
                key = self.key_of(message)
                if (ended := running.of(key)) is not None:
                    raise Postponed(STORE_DOWN_WAIT, ended)
                async with running.hold([key]), self._begun([key]) as transaction:
                    (claim,) = transaction.claims
                    if isinstance(claim, Done):
                        self.stats.skipped += 1
                        return None
                    if isinstance(claim, InProgress):
                        raise Postponed(claim.remaining)
                    return await _in(Inbox(transaction, [(message, key)]), inner(message))

            return inbox

        return wrap

    def batch(self) -> BatchMiddleware:
        running = _Running()

        def wrap(inner: BatchHandler) -> BatchHandler:
            async def inbox(messages: Sequence[Message[Any]]) -> object:
                asked = self._asked(messages, running)
                if not asked:
                    return None
                async with running.hold(list(asked)), AsyncExitStack() as stack:
                    try:
                        transaction = await stack.enter_async_context(self._begun(list(asked)))
                    except Postponed as postponed:
                        for message in asked.values():
                            message.mark = postponed
                        return None
                    new = self._new(asked, transaction)
                    if not new:
                        return None
                    return await _in(Inbox(transaction, new), inner([message for message, _ in new]))

            return inbox

        return wrap

    def _asked(self, messages: Sequence[Message[Any]], running: _Running) -> dict[str, Message[Any]]:
        """By key, less those that this process has in hand already: in another batch, or twice in this one."""
        asked: dict[str, Message[Any]] = {}
        for message in messages:
            key = self.key_of(message)
            if key in asked:
                message.mark = Postponed(0.0)
            elif (ended := running.of(key)) is not None:
                message.mark = Postponed(STORE_DOWN_WAIT, ended)
            else:
                asked[key] = message
        return asked

    def _new(self, asked: dict[str, Message[Any]], transaction: Transaction) -> list[tuple[Message[Any], str]]:
        new = []
        for (key, message), claim in zip(asked.items(), transaction.claims, strict=True):
            if isinstance(claim, Done):
                self.stats.skipped += 1
            elif isinstance(claim, InProgress):
                message.mark = Postponed(claim.remaining)
            else:
                new.append((message, key))
        return new

    @asynccontextmanager
    async def _begun(self, keys: Sequence[str]) -> AsyncIterator[Transaction]:
        """Raises Postponed if the store is down: there is no handling without it."""
        async with AsyncExitStack() as stack:
            try:
                transaction = await stack.enter_async_context(self.store.transaction(keys, self.ttl))
            except Exception as error:
                logger.warning("no transaction can be begun for %d keys, the first %r: %s", len(keys), keys[0], error)
                raise Postponed(STORE_DOWN_WAIT) from error
            yield transaction


class _Running:
    """The keys that this process has in hand: a second message of one waits for its end here, not in the database."""

    def __init__(self) -> None:
        self._ended: dict[str, asyncio.Future[object]] = {}

    def of(self, key: str) -> asyncio.Future[object] | None:
        return self._ended.get(key)

    @asynccontextmanager
    async def hold(self, keys: Sequence[str]) -> AsyncIterator[None]:
        """Left last: when the transaction has ended."""
        loop = asyncio.get_running_loop()
        self._ended.update({key: loop.create_future() for key in keys})
        try:
            yield
        finally:
            for key in keys:
                self._ended.pop(key).set_result(None)


async def _in(inbox: Inbox, run: Awaitable[object]) -> object:
    before = current_inbox.set(inbox)
    try:
        return await run
    finally:
        current_inbox.reset(before)


@dataclass(frozen=True, slots=True)
class CommitOption:
    """The inner layer. Added by the core where a handler takes what its store provides."""

    kind = "commit"
    rank = 45

    def single(self, around: Surroundings) -> Middleware:
        def wrap(inner: Handler) -> Handler:
            async def commit(message: Message[Any]) -> object:
                result = await inner(message)
                await _current().commit()
                return result

            return commit

        return wrap

    def batch(self, around: Surroundings) -> BatchMiddleware:
        def wrap(inner: BatchHandler) -> BatchHandler:
            async def commit(messages: Sequence[Message[Any]]) -> object:
                result = await inner(messages)
                await _current().commit()
                return result

            return commit

        return wrap


def _current() -> Inbox:
    inbox = current_inbox.get()
    assert inbox is not None, "the outer layer has set it"
    return inbox

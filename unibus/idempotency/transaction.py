"""Effect and key in one transaction: what a store offers beyond claims, where it can.

A handler that takes what the store provides acts within that transaction. Key and effect are kept both or
neither, so no lease is needed, and a process that dies leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

from unibus.errors import DriverError
from unibus.idempotency.store import Claim, IdempotencyStore
from unibus.message import Message
from unibus.outcome import Postponed

STORE_DOWN_WAIT = 60.0
"""The longest wait for a store that is down; the core grows towards it from 1 s."""


class Transaction(Protocol):
    """Begun. What is not committed when it is left is undone."""

    @property
    def claims(self) -> Sequence[Claim]:
        """Of each key: New is kept with this transaction, InProgress is in hand in another one, or claimed."""

    @property
    def resource(self) -> object:
        """What the handler acts with; an instance of what the store `provides`."""

    async def commit(self, without: Sequence[str] = ()) -> None:
        """Keep the effect and the keys that were New, less those of `without`.

        Raises a DriverError that is retryable if nobody knows whether it was kept; any other error is the handler's.
        """


@runtime_checkable
class TransactionalStore(IdempotencyStore, Protocol):
    """A store in a database that handlers write to, too."""

    @property
    def provides(self) -> type:
        """The annotation by which a handler asks for the transaction."""

    def transaction(self, keys: Sequence[str], ttl: float) -> AbstractAsyncContextManager[Transaction]:
        """Begin a transaction that keeps each free key as done, for `ttl` seconds. Keys are distinct.

        Never waits for another transaction that has a key: that one is InProgress.
        """


class Inbox:
    """The transaction around one run of a handler, and the messages that it is for with their keys."""

    __slots__ = ("_keys", "_transaction")

    def __init__(self, transaction: Transaction, keys: Sequence[tuple[Message[Any], str]]) -> None:
        self._transaction = transaction
        self._keys = keys

    @property
    def resource(self) -> object:
        return self._transaction.resource

    async def commit(self) -> None:
        """After the handler has succeeded. What it marked is not done: its key is not kept.

        Raises Postponed if the store failed, since the key will tell at the next delivery what has happened.
        """
        marked = [key for message, key in self._keys if message.mark is not None]
        try:
            await self._transaction.commit(marked)
        except DriverError as error:
            if not error.retryable:
                raise
            raise Postponed(STORE_DOWN_WAIT) from error


current_inbox: ContextVar[Inbox | None] = ContextVar("unibus_current_inbox", default=None)
"""That of the handler which is being run, if it takes what its store provides."""

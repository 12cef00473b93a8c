"""Batches of entries: within AWS's limits, and with an outcome for each.

A batch is answered with success though some of its entries were not taken; and a call may be refused, or not get
through, so that nothing was stored for certain. Both are tried again, for as long as an answer may take; what may be
stored is never sent a second time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeAlias

from unibus.driver import Clock
from unibus.errors import MessageTooLarge
from unibus_sqs.clients import FIRST_WAIT, LONGEST_WAIT
from unibus_sqs.failures import FOREIGN, may_pass, never_left, of_entry, of_send
from unibus_sqs.limits import BATCH
from unibus_sqs.wire import size_of

Call: TypeAlias = Callable[[list[Any]], Awaitable[Any]]
"""One call of the client with these entries, as it answers."""


class Batches:
    """body: how the entries name it. most: bytes of one message, and of one batch. patience: seconds for trying."""

    def __init__(self, *, body: str, most: int, patience: float, clock: Clock) -> None:
        self._body = body
        self._most = most
        self._patience = patience
        self._clock = clock

    async def send(self, entries: Sequence[Any], call: Call, *, ordered: bool) -> dict[int, Exception]:
        """In their order; returns errors by the entries' ids. ordered: an entry that was not taken is not tried again,
        since later ones of its group may have been."""
        errors: dict[int, Exception] = {}
        for batch in self._batches(entries, errors):
            failed = await self._send(batch, call, ordered=ordered)
            errors |= failed
        return errors

    def _batches(self, entries: Sequence[Any], errors: dict[int, Exception]) -> Iterator[list[Any]]:
        batch: list[Any] = []
        room = self._most
        for entry in entries:
            size = size_of(entry, self._body)
            if size > self._most:
                errors[int(entry["Id"])] = MessageTooLarge(
                    size, self._most, "message, encoded and with its attributes,"
                )
                continue
            if batch and (size > room or len(batch) == BATCH):
                yield batch
                batch, room = [], self._most
            batch.append(entry)
            room -= size
        if batch:
            yield batch

    async def _send(self, batch: list[Any], call: Call, *, ordered: bool) -> dict[int, Exception]:
        deadline, wait = self._clock.monotonic() + self._patience, FIRST_WAIT
        errors: dict[int, Exception] = {}
        while True:
            may_wait = self._clock.monotonic() + wait < deadline
            try:
                failed = (await call(batch)).get("Failed", ())
            except FOREIGN as error:
                if not (may_wait and never_left(error)):
                    return errors | {int(entry["Id"]): of_send(error) for entry in batch}
            else:
                again = {one["Id"] for one in failed if may_wait and not ordered and may_pass(one)}
                errors |= {int(one["Id"]): of_entry(one) for one in failed if one["Id"] not in again}
                batch = [entry for entry in batch if entry["Id"] in again]
                if not batch:
                    return errors
            await self._clock.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

"""Settling and renewing: batches of receipt handles, each with an outcome of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeAlias

from unibus.driver import Clock, Delivery
from unibus.errors import ConnectionLost, DriverError
from unibus_sqs.failures import STALE, may_pass, translated
from unibus_sqs.limits import BATCH

Call: TypeAlias = Callable[[list[Any]], Awaitable[Any]]
TRIES, WAIT = 3, 0.1
"""How often entries are tried that the server could not settle, and seconds between; then the core tries again."""


class Settled:
    """done: off our hands. stale: not ours any more. failed: still ours, to be settled again, and why."""

    __slots__ = ("done", "failed", "stale", "why")

    def __init__(self) -> None:
        self.done: list[Delivery] = []
        self.stale: list[Delivery] = []
        self.failed: list[Delivery] = []
        self.why: DriverError | None = None


async def settle(
    deliveries: Sequence[Delivery], call: Call, *, doing: str, clock: Clock, seconds: Callable[[Delivery], int] | None
) -> Settled:
    """seconds: for how long each is to be invisible, None where the call deletes. A call that fails as a whole leaves
    what it had, and what was to follow, in `failed`."""
    outcome = Settled()
    for part in _parts(deliveries):
        if outcome.why is not None:
            outcome.failed += part
            continue
        try:
            with translated(doing):
                await _settle(part, call, outcome, clock, seconds)
        except DriverError as error:
            outcome.why = error
            ended = {*outcome.done, *outcome.stale}
            outcome.failed += [one for one in part if one not in ended]
    return outcome


async def _settle(
    part: Sequence[Delivery], call: Call, outcome: Settled, clock: Clock, seconds: Callable[[Delivery], int] | None
) -> None:
    for attempt in range(1, TRIES + 1):
        outcome.stale += [one for one in part if isinstance(one.token, str)]  # lost while others were settled
        part = [one for one in part if not isinstance(one.token, str)]
        if not part:
            return
        failed = {int(one["Id"]): one for one in (await call(_entries(part, seconds))).get("Failed", ())}
        again = []
        for place, delivery in enumerate(part):
            if place not in failed:
                outcome.done.append(delivery)
            elif failed[place].get("Code", "").rpartition(".")[2] in STALE or not may_pass(failed[place]):
                outcome.stale.append(delivery)
            else:
                again.append(delivery)
        if not again:
            return
        if attempt == TRIES:
            one = next(iter(failed.values()))
            outcome.failed += again
            outcome.why = ConnectionLost(f"{len(again)} deliveries: {one.get('Code')}: {one.get('Message', '')}")
            return
        part = again
        await clock.sleep(WAIT)


def _entries(part: Sequence[Delivery], seconds: Callable[[Delivery], int] | None) -> list[Any]:
    entries: list[Any] = [{"Id": str(n), "ReceiptHandle": one.token.receipt} for n, one in enumerate(part)]
    if seconds is not None:
        for entry, delivery in zip(entries, part, strict=True):
            entry["VisibilityTimeout"] = seconds(delivery)
    return entries


def _parts(deliveries: Sequence[Delivery]) -> Iterator[Sequence[Delivery]]:
    for start in range(0, len(deliveries), BATCH):
        yield deliveries[start : start + BATCH]

"""Sending: calls that are in flight together become batches, with no timer.

The first message goes at the next tick of the loop, with all that came by then; what comes while a
call is in flight is the next batch; a further call starts beside it once `min_messages` wait, and
what waits then is shared between them. An idle sender holds no task.

Keyed messages on an ordered address: two batches in flight could invert a key. There are 1,024 key
slots, and a slot is in at most one call at a time, the oldest first. When a message fails, those of
its key that are queued at that moment fail with NotSent; later calls start afresh. So what is
stored of a key is in the order of the calls, and errors name the holes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol, TypeAlias

from unibus.cancellation import asked_to_end
from unibus.driver import Address, Limits, Outbound
from unibus.errors import BatchError, NotSent, OutcomeUnknown

KEY_SLOTS = 1024


class Send(Protocol):
    """The driver's send, or what stands in for it."""

    async def __call__(self, address: Address, messages: Sequence[Outbound], /) -> None: ...


class _One:
    """Where the outcome of a single message goes."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future

    def settle(self, index: int, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)
            self.future.exception()  # a caller that was cancelled meanwhile will not ask for it

    def confirm(self, count: int) -> None:
        if not self.future.done():
            self.future.set_result(None)


class _Chunk:
    """Where the outcomes of a chunk of `send_many` go: one future for all of them."""

    __slots__ = ("errors", "future", "left")

    def __init__(self, future: asyncio.Future[dict[int, Exception]], left: int) -> None:
        self.future = future
        self.left = left
        self.errors: dict[int, Exception] = {}

    def settle(self, index: int, error: Exception | None) -> None:
        if error is not None:
            self.errors[index] = error
        self.confirm(1)

    def confirm(self, count: int) -> None:
        """So many more have an outcome."""
        self.left -= count
        if self.left == 0 and not self.future.done():
            self.future.set_result(self.errors)


_Entry: TypeAlias = tuple[Outbound, _One | _Chunk, int]


def _confirm(entries: Sequence[_Entry]) -> None:
    """All of them are stored. Those of one chunk stand in a row, and are told at once."""
    outcome, count = entries[0][1], 0
    for entry in entries:
        if entry[1] is outcome:
            count += 1
        else:
            outcome.confirm(count)
            outcome, count = entry[1], 1
    outcome.confirm(count)


class _Batch:
    """What one call takes: its entries, and the key slots that it keeps to itself until it ends."""

    __slots__ = ("entries", "slots")

    def __init__(self) -> None:
        self.entries: list[_Entry] = []
        self.slots: list[int] = []


class Sender:
    """All sends of this process to one address (or to all topics)."""

    def __init__(self, address: Address, limits: Limits, send: Send, *, ordered: bool) -> None:
        self._address = address
        self._limits = limits
        self._send = send
        self._ordered = ordered
        self._waiting: deque[_Entry] = deque()
        self._slots: dict[int, deque[_Entry]] = {}  # oldest first; a slot in flight is not in here
        self._set_aside: dict[int, deque[_Entry]] = {}  # what came for a slot in flight
        self._count = 0
        self._starting = False
        self._calls: dict[asyncio.Task[None], _Batch] = {}

    def send(self, message: Outbound) -> asyncio.Future[None]:
        """The future is done once the broker has confirmed. Cancelling it before it left unsends it."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._add(message, _One(future), 0)
        if not self._starting:
            self._start()
        return future

    def send_chunk(self, messages: Sequence[Outbound]) -> asyncio.Future[dict[int, Exception]]:
        """Like `send` for several; the future has the errors by index."""
        future: asyncio.Future[dict[int, Exception]] = asyncio.get_running_loop().create_future()
        chunk = _Chunk(future, len(messages))
        if self._ordered:
            for index, message in enumerate(messages):
                self._add(message, chunk, index)
        else:
            self._waiting.extend([(message, chunk, index) for index, message in enumerate(messages)])
            self._count += len(messages)
        if not self._starting:
            self._start()
        return future

    async def flush(self) -> None:
        """Wait until nothing waits and nothing is in flight."""
        while self._calls:
            await asyncio.wait(set(self._calls), return_when=asyncio.FIRST_COMPLETED)

    @property
    def unsent(self) -> int:
        """Messages that have not been confirmed yet."""
        return self._count + sum(len(batch.entries) for batch in self._calls.values())

    def abort(self) -> None:
        """Give up what is waiting and in flight: its senders get NotSent and OutcomeUnknown."""
        entries = [*self._waiting, *(entry for slot in self._slots.values() for entry in slot)]
        entries += [entry for slot in self._set_aside.values() for entry in slot]
        self._waiting.clear()
        self._slots.clear()
        self._set_aside.clear()
        self._count = 0
        for _, outcome, index in entries:
            outcome.settle(index, NotSent("the bus was closed before the message left; send it again"))
        for call, batch in self._calls.items():
            for _, outcome, index in batch.entries:
                outcome.settle(index, OutcomeUnknown("the bus was closed before the broker answered: it may be stored"))
            call.cancel()

    # --- queueing ---------------------------------------------------------------------------------

    def _add(self, message: Outbound, outcome: _One | _Chunk, index: int) -> None:
        self._count += 1
        if not self._ordered or message.key is None:
            self._waiting.append((message, outcome, index))
            return
        slot = hash(message.key) % KEY_SLOTS
        queue = self._set_aside.get(slot)
        if queue is None:
            queue = self._slots.setdefault(slot, deque())
        queue.append((message, outcome, index))

    def _start(self) -> None:
        """Another call, if one may start now. It takes its batch at the next tick, with all that came by then."""
        if self._calls and (len(self._calls) >= self._limits.calls or self._ready() < self._limits.min_messages):
            return
        self._starting = True
        self._calls[asyncio.get_running_loop().create_task(self._work())] = _Batch()

    def _ready(self) -> int:
        """How many wait that a call could take now."""
        return self._count - sum(map(len, self._set_aside.values())) if self._set_aside else self._count

    def _take(self, batch: _Batch) -> None:
        """Fill the batch within the limits; slots that it takes from are set aside until it ends."""
        most = self._share()
        room = self._fill(batch.entries, self._waiting, most, self._limits.bytes)
        while self._slots and len(batch.entries) < most:
            slot = next(iter(self._slots))
            queue = self._slots.pop(slot)
            waited, taken = len(queue), len(batch.entries)
            room = self._fill(batch.entries, queue, most, room)
            if len(queue) == waited:  # no room left for its first message: it stays the oldest
                self._slots = {slot: queue, **self._slots}
                return
            if len(batch.entries) == taken and not queue:
                continue  # its senders have all given up
            batch.slots.append(slot)
            self._set_aside[slot] = queue
            if queue:
                return

    def _share(self) -> int:
        """How many this call takes. What waits is shared with the calls that may start beside it: callers that await
        their own confirms would else go in step, and we would idle while the broker works, and it while we do."""
        limits, ready = self._limits, self._ready()
        free = limits.calls - len(self._calls) + 1
        calls = min(free, ready // limits.min_messages) if limits.min_messages > 1 else 1
        return min(limits.messages, -(-ready // max(calls, 1)))

    def _fill(self, entries: list[_Entry], queue: deque[_Entry], most: int, room: int | None) -> int | None:
        """Move entries over, less those whose senders gave up; returns the bytes that are left."""
        waited = len(queue)
        if room is None:
            for _ in range(min(waited, most - len(entries))):
                entry = queue.popleft()
                if not entry[1].future.done():
                    entries.append(entry)
        else:
            while queue and len(entries) < most:
                size = len(queue[0][0].body or b"")
                if size > room and entries:
                    break
                entry = queue.popleft()
                if not entry[1].future.done():
                    entries.append(entry)
                    room -= size
        self._count -= waited - len(queue)
        return room

    # --- calling ----------------------------------------------------------------------------------

    async def _work(self) -> None:
        """One call after another for as long as something waits."""
        self._starting = False
        task = asyncio.current_task()
        assert task is not None
        try:
            while self._count:
                batch = self._calls[task] = _Batch()
                self._take(batch)
                if not batch.entries:
                    self._give_back(batch)
                    if self._ready() <= 0:
                        break  # all that waits is behind a call in flight, which goes on with it
                    continue
                if self._count and not self._starting:
                    self._start()
                await self._call(batch)
        finally:
            self._calls.pop(task, None)

    async def _call(self, batch: _Batch) -> None:
        errors: dict[int, Exception] = {}
        entries = batch.entries
        try:
            await self._send(self._address, [entry[0] for entry in entries])
        except BatchError as failed:
            errors = failed.errors
        except asyncio.CancelledError as cancelled:
            unknown = OutcomeUnknown("the call was cut off before the broker answered: the message may be stored")
            unknown.__cause__ = cancelled
            errors = dict.fromkeys(range(len(entries)), unknown)
            if asked_to_end():
                raise  # somebody ends us; `finally` tells the senders
        except Exception as error:
            errors = dict.fromkeys(range(len(entries)), error)
        finally:
            if errors and self._ordered:
                self._fail_followers({entries[index][0].key for index in errors} - {None})
            self._give_back(batch)
            batch.entries = []
            if not errors:
                _confirm(entries)
            else:
                for position, (_, outcome, index) in enumerate(entries):
                    outcome.settle(index, errors.get(position))

    def _give_back(self, batch: _Batch) -> None:
        for slot in batch.slots:
            queue = self._set_aside.pop(slot, None)
            if queue:
                self._slots[slot] = queue
        batch.slots = []

    def _fail_followers(self, keys: set[str | None]) -> None:
        """What is queued behind a failed message of its key must not overtake it."""
        for key in keys:
            slot = hash(key) % KEY_SLOTS
            queue = self._set_aside.get(slot)
            if not queue:
                continue
            kept: deque[_Entry] = deque()
            for entry in queue:
                if entry[0].key == key:
                    self._count -= 1
                    reason = f"an earlier message of key {key!r} failed, so this one did not leave; send it again"
                    entry[1].settle(entry[2], NotSent(reason))
                else:
                    kept.append(entry)
            self._set_aside[slot] = kept

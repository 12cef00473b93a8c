"""A process that dies at a step of a hop. The driver is wrapped, and what moves delays: no production code knows."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import time
from typing import Any, NoReturn

from tests.faults.hops import DIED, Hop, Step
from tests.faults.journal import Journal
from unibus import registry
from unibus.driver import Connect, Delivery, Outcome
from unibus.testing.faults import Call, Faults, Proceed


class Dying:
    """Dies with `os._exit` as soon as the hop comes to its step: no cleaning up, no word to anybody.

    watch: a module with a function `watch(dying)`, which sees to what is its broker's own.
    """

    def __init__(self, hop: Hop, step: Step, watch: str, journal: Journal) -> None:
        self.hop = hop
        self.step = step
        self.committed: dict[Any, int] | None = None
        """Of a log, by partition: its broker knows of what is settled once that is committed. Else None."""
        self.received: list[Delivery] = []
        self.moved = False
        """To its next place, while the place before does not know."""
        self._watch = watch
        self._journal = journal
        self._faults = Faults()
        self._resent_at: float | None = None

    def connect(self) -> Connect:
        """For the bus of the victim."""
        self._faults.add("receive", self._note_received, times=None)
        self._faults.add("send", self._at_send, when=self._is_hop, times=None)
        self._faults.add("settle", self._at_ack, when=self._is_ack, times=None)
        if self._watch:
            importlib.import_module(self._watch).watch(self)
        return self._faults.connect(registry.connect)

    def failed(self) -> None:
        """In the handler, which is about to raise."""
        loop = asyncio.get_running_loop()
        if self.step == "waits":
            loop.call_later(0.1, self._die)
        elif self.step == "sent at shutdown":
            loop.call_later(0.1, os.kill, os.getpid(), signal.SIGTERM)

    def is_due(self) -> bool:
        """By a count that began later than the broker's."""
        return self._resent_at is not None and time.time() > self._resent_at + self.hop.after

    def reaches(self, *steps: Step) -> None:
        """Die, if it is one of these."""
        if self.step in steps:
            self._die()

    # --- inside ---------------------------------------------------------------------------------------

    def _die(self) -> NoReturn:
        self._journal.write("unsettled", text=" ".join(sorted(self._unsettled())))
        os._exit(DIED)

    def _unsettled(self) -> set[str]:
        if self.committed is None:
            ids = {delivery.message_id for delivery in self._faults.held}
        else:
            ids = {one.message_id for one in self.received if not self._is_committed(one, self.committed)}
        return ids | ({self.hop.message} if self.moved else set())

    def _is_committed(self, delivery: Delivery, committed: dict[Any, int]) -> bool:
        record = delivery.native
        return bool(record.offset < committed.get((record.topic, record.partition), 0))

    # --- at the seam ----------------------------------------------------------------------------------

    def _is_hop(self, call: Call) -> bool:
        return any(item.message_id == self.hop.message for item in call.items)

    def _is_ack(self, call: Call) -> bool:
        return call.outcome is Outcome.ACK and self._is_hop(call)

    async def _note_received(self, call: Call, proceed: Proceed) -> Any:
        batch = await proceed(call.items)
        self.received += batch
        return batch

    async def _at_send(self, call: Call, proceed: Proceed) -> None:
        self.reaches("handler failed")
        await proceed(call.items)
        self.reaches("sent", "sent at shutdown")
        self._resent_at = time.time()

    async def _at_ack(self, call: Call, proceed: Proceed) -> None:
        self.reaches("before the ack")
        await proceed(call.items)
        self.reaches("acked")

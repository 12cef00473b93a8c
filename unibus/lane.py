"""A lane: one long-lived task of a consumer, which handles one message (or one batch) after another."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Literal, TypeAlias

from unibus.driver import Delivery

CancelReason: TypeAlias = Literal["lost", "timeout", "shutdown"]


class Lane:
    """Whoever cancels a lane notes the reason first: a CancelledError without one is a failure of the handler.

    held: the deliveries in hand. cancelled_by_others: somebody outside unibus asked the task to end.
    """

    __slots__ = ("cancelled_by_others", "held", "reason", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.held: tuple[Delivery, ...] | list[Delivery] = ()
        self.reason: CancelReason | None = None
        self.cancelled_by_others = False

    def cancel(self, reason: CancelReason) -> None:
        self.reason = reason
        if self.task is not None:
            self.task.cancel()

    def forget_cancel(self) -> None:
        """The cancellation has been dealt with: the task lives on."""
        self.reason = None
        while self.task is not None and self.task.cancelling():
            self.task.uncancel()


current_lane: ContextVar[Lane] = ContextVar("unibus_current_lane")

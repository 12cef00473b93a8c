"""moto, one call of SQS at a time: it takes no lock while it looks for messages, so that another thread would be given
the same ones, or the last of a group before those that an earlier call has just settled."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

from moto.server import main
from moto.sqs.models import Queue, SQSBackend

TURN = threading.Condition(threading.RLock())
LOOK_AGAIN = 0.05
"""Seconds between looks of a call that waits for messages; it lets others in meanwhile."""


def one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*args: Any, **more: Any) -> Any:
        with TURN:
            return method(*args, **more)

    return call


def wait_for_messages(self: Queue, timeout: int) -> None:
    TURN.wait(LOOK_AGAIN)


for name, method in list(vars(SQSBackend).items()):
    if callable(method) and not name.startswith("_"):
        setattr(SQSBackend, name, one_at_a_time(method))
Queue.wait_for_messages = wait_for_messages
if __name__ == "__main__":
    main()

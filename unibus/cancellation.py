"""Telling a cancellation that somebody asked for from one that a client library lets slip out."""

from __future__ import annotations

import asyncio


def asked_to_end() -> bool:
    """Whether somebody asked the current task to end.

    A CancelledError in a task that nobody asked to end is a failure of what was awaited (a client
    library's lost connection, say), and must be dealt with as one.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""Stopping a consumer: no more fetching, lanes end, settles are flushed, what never started goes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from unibus.errors import DriverError

if TYPE_CHECKING:
    from unibus.consumer import Consumer

logger = logging.getLogger("unibus.consumer")

STUCK_WAIT = 5.0
"""Seconds that a cancelled handler gets to end before it is reported and left behind."""
LAST_MOMENT = 1.0
"""Seconds that a broker still gets for settles and re-sends when the grace period is over."""


async def drain(consumer: Consumer, over: asyncio.Future[None]) -> bool:
    """Returns whether every handler ended by itself before `over`, the end of the grace period.

    Leases are renewed until the end: what a handler has in hand stays ours while it drains.
    """
    assert consumer.subscription is not None
    await _within(consumer, over, consumer.suspects.rescue())
    due = consumer.waiting.clear()
    consumer.buffer.wake_all()
    clean = await _end_lanes(consumer, over)
    due |= consumer.waiting.clear()  # what the last runs parked
    await _within(consumer, over, consumer.verdicts.release_failed(due))
    await _within(consumer, over, consumer.settler.flush())
    consumer.buffer.items.clear()
    consumer.give_back(list(consumer.held))
    await _within(consumer, over, consumer.settler.flush())
    consumer.settler.abort()
    try:
        await consumer.subscription.close()
    except DriverError as error:
        logger.warning("%s could not be closed cleanly: %s", consumer.plan.name, error)
    return clean


async def _end_lanes(consumer: Consumer, over: asyncio.Future[None]) -> bool:
    tasks = {lane.task: lane for lane in consumer.lanes if lane.task is not None}
    if not tasks:  # a pull has no lanes
        return True
    running = asyncio.ensure_future(asyncio.wait(tasks))
    await asyncio.wait((running, over), return_when=asyncio.FIRST_COMPLETED)
    late = [lane for task, lane in tasks.items() if not task.done()]
    for lane in late:
        lane.cancel("shutdown")
    if late:
        await _wait_for(consumer, running, STUCK_WAIT)
    stuck = sum(1 for lane in late if lane.task is not None and not lane.task.done())
    if stuck:
        logger.error("%d runs of %s did not end when cancelled; their messages go back", stuck, consumer.plan.where)
    running.cancel()
    return not late


async def _within(consumer: Consumer, over: asyncio.Future[None], work: Coroutine[Any, Any, None]) -> None:
    """Wait for the work until the grace period is over, and then for a moment still."""
    task = asyncio.ensure_future(work)
    await asyncio.wait((task, over), return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        await _wait_for(consumer, task, LAST_MOMENT)
    if not task.done():
        task.cancel()
    elif not task.cancelled() and (error := task.exception()) is not None:
        logger.error("%s could not stop cleanly", consumer.plan.name, exc_info=error)


async def _wait_for(consumer: Consumer, work: asyncio.Future[Any], seconds: float) -> None:
    timer = asyncio.ensure_future(consumer.clock.sleep(seconds))
    await asyncio.wait((work, timer), return_when=asyncio.FIRST_COMPLETED)
    timer.cancel()

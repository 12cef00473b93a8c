"""Looking at letters and leaving them where they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

from unibus.dead_letters.hand import Hand
from unibus.driver import Browser, Delivery, Depth, Driver, Queue
from unibus.session import Session

T = TypeVar("T")

HELD = 1000
"""Letters at most that are in hand at once: received, and not to be settled."""
PATIENCE = 10.0
"""Seconds to wait for a letter that should be there."""
_PAGE = 100


def browser(driver: Driver) -> Browser | None:
    """The driver, if it can look without touching."""
    return driver if driver.capabilities.browse != "none" and isinstance(driver, Browser) else None


def lying(depth: Depth) -> int:
    """With those in somebody's hands."""
    return depth.ready + (depth.in_flight or 0)


async def look_through(session: Session, queue: Queue) -> AsyncGenerator[Delivery, None]:
    """All that lie there. Where nobody can browse they are received, held, and given back when this is closed:
    HELD at most. Use it within `aclosing`."""
    browsing = browser(session.driver)
    if browsing is None:
        held = _hold(session, queue)
        async with aclosing(held):
            async for delivery in held:
                yield delivery
        return
    after: str | None = None
    while True:
        page, after = await browsing.browse(queue, after, _PAGE)
        for delivery in page:
            yield delivery
        if after is None:
            return


async def _hold(session: Session, queue: Queue) -> AsyncGenerator[Delivery, None]:
    left = min(lying(await session.driver.depth(queue)), HELD)
    if not left:
        return
    async with Hand(session, queue, prefetch=left) as hand:
        while left:
            batch = await hand.receive(left, PATIENCE)
            if not batch:
                return
            left -= len(batch)
            for delivery in batch:
                yield delivery

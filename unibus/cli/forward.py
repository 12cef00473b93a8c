"""`unibus forward`: move delayed messages for a broker that leaves it to its clients, until a signal ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from unibus.cli.worker import configure_logging, fastest_loop
from unibus.driver import Driver, Forwarding, SystemClock, Url
from unibus.errors import UnsupportedCapability
from unibus.registry import connect
from unibus.serving import SIGNALS

log = logging.getLogger("unibus.cli")


def forward_url(text: str, *, log_level: str) -> None:
    """Raises UnsupportedCapability where nothing needs to be moved, and what `open` raises."""
    url = Url(text)
    driver = connect(url, SystemClock())
    if not isinstance(driver, Forwarding):
        raise UnsupportedCapability(
            f"{url}: nothing to forward; where this kind of broker can delay messages, it does so by itself"
        )
    configure_logging(log_level)
    with asyncio.Runner(loop_factory=fastest_loop()) as runner:
        runner.run(_forward(driver, lambda: log.info("forwarding what is due on %s", url)))


async def _forward(driver: Driver, on_ready: Callable[[], None]) -> None:
    """A message in hand when it ends is still on the broker, for whoever forwards next."""
    assert isinstance(driver, Forwarding)
    loop = asyncio.get_running_loop()
    forwarding = loop.create_task(_opened(driver, on_ready))
    for number in SIGNALS:
        loop.add_signal_handler(number, forwarding.cancel)
    try:
        await asyncio.wait([forwarding])
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)
        await driver.close()
    if not forwarding.cancelled():
        forwarding.result()


async def _opened(driver: Driver, on_ready: Callable[[], None]) -> None:
    assert isinstance(driver, Forwarding)
    await driver.open()
    on_ready()
    await driver.forward()

"""The first use of an address: it is looked for once, however many wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from unibus.cancellation import asked_to_end
from unibus.driver import Address
from unibus.errors import NotSent


class FirstUse:
    """Those who wait go on in the order in which they came, and before any that come later:
    what is sent by them must be stored in the order of the calls.
    """

    def __init__(self, known: set[Address]) -> None:
        self._known = known
        self._waiting: dict[Address, list[asyncio.Future[None]]] = {}
        self._looking: set[asyncio.Task[None]] = set()

    async def wait(self, address: Address, look: Callable[[], Awaitable[None]]) -> None:
        """Return once the address is known. `look` is called by the first to come; its error is everybody's."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        if address in self._waiting:
            self._waiting[address].append(waiter)
        else:
            self._waiting[address] = [waiter]
            task = loop.create_task(self._look(address, look), name=f"unibus look for {address}")
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)
        await waiter

    async def _look(self, address: Address, look: Callable[[], Awaitable[None]]) -> None:
        try:
            await look()
        except asyncio.CancelledError as cut:
            # Raised in those who wait, it would look as if somebody had asked them to end.
            error = NotSent(f"{address} was being looked for when the call was cut off; nothing left, send it again")
            error.__cause__ = cut
            self._fail(address, error)
            if asked_to_end():
                raise
        except Exception as error:
            self._fail(address, error)
        else:
            self._release(address)

    def _fail(self, address: Address, error: Exception) -> None:
        for waiter in self._waiting.pop(address):
            if not waiter.done():
                waiter.set_exception(error)
                waiter.exception()  # one that gave up will not ask for it

    def _release(self, address: Address) -> None:
        """Wake who waits; known only when they are through, so that who comes meanwhile stands behind them."""
        waiting, self._waiting[address] = self._waiting[address], []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
        if waiting:
            asyncio.get_running_loop().call_soon(self._release, address)
        else:
            del self._waiting[address]
            self._known.add(address)

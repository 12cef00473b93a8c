"""What an adapter's author fills in so that the contract suite runs against their broker."""

from __future__ import annotations

import asyncio
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any, ClassVar, TypeVar

from unibus import registry
from unibus.bus import Bus
from unibus.clock import SystemClock
from unibus.driver import Capabilities, Clock, Connect, Driver, Guarantee, Url
from unibus.errors import NotOpen
from unibus.testing.clock import MovableClock
from unibus.testing.faults import Faults, innermost
from unibus.testing.killing import kill

T = TypeVar("T")


class Harness:
    """One broker under test; a new one is made for every case.

        class RedisHarness(Harness):
            url = "redis://127.0.0.1:6379"
            async def vanish(self, driver: Driver) -> None:
                await driver.cut_off()           # whatever a killed process looks like to the broker

        class TestRedis(contract.Suite):
            harness_type = RedisHarness

    The broker may be shared: every name that a case uses comes from `name` and is new. A case waits
    by `until` and `wait` alone, so that a broker with a movable clock is tested without waiting.
    """

    url: str = ""
    patience: float = 30.0
    """Real seconds within which what must come does come."""
    silence: float = 1.0
    """Seconds, of the harness's time, after which what has not come does not come any more."""
    slack: float = 2.0
    """Seconds beyond the stated precision by which a delay may run on, under a loaded test machine."""
    longest_wait: float = 5.0
    """Seconds that a case may let pass; with a movable clock there is no limit."""
    largest_body: int = 16 * 1024 * 1024
    """Bytes; limits of bodies above this are not tried."""
    load: int = 2000
    """Messages in the cases under load."""
    many: int = 100
    """Queues at once in the case that has many."""
    version: str = ""
    """Of the server, for reports."""
    clock: MovableClock | None = None
    connect: Connect | None = None

    _known: ClassVar[dict[type[Harness], Capabilities]] = {}

    def __init__(self) -> None:
        self._prefix = f"t{uuid.uuid4().hex[:8]}"
        self._gone: set[Bus] = set()
        self._unhandled: list[dict[str, Any]] = []
        self.capabilities = Capabilities()

    # --- to be filled in ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Before a case: the broker is there."""

    async def stop(self) -> None:
        """After a case."""

    async def vanish(self, driver: Driver) -> None:
        """The process behind an open driver is gone: nothing is settled, closed or cancelled politely."""
        raise NotImplementedError(f"{type(self).__name__}.vanish: tell how a killed process looks to the broker")

    async def lose(self, bus: Bus) -> None:
        """Optional: take from the bus all that its consumers hold, as the broker does (`Lost`)."""
        raise NotImplementedError

    async def restart(self) -> None:
        """Optional: stop the broker and start it again with all that it has confirmed."""
        raise NotImplementedError

    # --- used by the cases ----------------------------------------------------------------------------

    def name(self, words: str) -> str:
        """A name, or a pattern, that this case alone uses: `name("order.*")` matches `name("order.created")`."""
        return f"{self._prefix}.{words}"

    def bus(self, *, faults: Faults | None = None, **options: Any) -> Bus:
        """A bus on the broker; with `faults` between it and its driver."""
        connect = self._open_driver
        if faults is not None:
            options["connect"] = faults.connect(connect)
        elif self.connect is not None:
            options["connect"] = connect
        return Bus(self.url, clock=self.clock, **options)

    async def abandon(self, bus: Bus) -> None:
        """The process of an open bus is killed: it acts no more, and the broker hears nothing of it.

        May be called by one of its handlers, which then awaits its own end.
        """
        self._gone.add(bus)
        cutting = asyncio.get_running_loop().create_task(self.vanish(innermost(kill(bus))))
        ended = False
        while not cutting.done():  # the kill has cancelled the handler that called us
            try:
                await asyncio.wait({cutting})
            except asyncio.CancelledError:
                ended = True
        cutting.result()
        if ended and (caller := asyncio.current_task()) is not None:
            caller.cancel()  # again: it awaits its end

    def running(self, *buses: Bus) -> AbstractAsyncContextManager[None]:
        """Open the buses and consume; at the end they drain, but for those that were abandoned."""
        return self._inside(buses, consuming=True)

    def connected(self, *buses: Bus) -> AbstractAsyncContextManager[None]:
        """Open the buses to send."""
        return self._inside(buses, consuming=False)

    @asynccontextmanager
    async def driver(self) -> AsyncIterator[Driver]:
        """A driver of its own, open, for the cases at the seam."""
        driver = self._open_driver(Url(self.url), self.clock or SystemClock())
        await driver.open()
        try:
            yield driver
        finally:
            await self.passing(driver.close())

    def now(self) -> float:
        """Seconds of the harness's time."""
        return self.clock.monotonic() if self.clock is not None else time.monotonic()

    async def wait(self, seconds: float) -> None:
        """Let time pass."""
        if self.clock is not None:
            await self.clock.advance(seconds)
        else:
            await asyncio.sleep(seconds)

    async def sleep(self, seconds: float) -> None:
        """For handlers: be busy for so long. Time passes by `wait` and `until` of the case."""
        await (self.clock or SystemClock()).sleep(seconds)

    async def until(self, condition: Callable[[], bool | Awaitable[bool]], what: str, within: float = 600.0) -> None:
        """Return as soon as the condition holds. within: seconds of the harness's time, if it is moved."""
        given_up = time.monotonic() + self.patience
        until = self.now() + within
        while not await self._comes_true(condition):
            if time.monotonic() > given_up and (self.clock is None or self.now() > until):
                raise AssertionError(f"did not happen: {what}")
            if self.clock is not None and not await self.clock.advance_to_next():
                await self.clock.advance(1.0)

    async def passing(self, awaitable: Awaitable[T]) -> T:
        """Await something that may need time to pass."""
        if self.clock is None:
            return await awaitable
        task = asyncio.get_running_loop().create_task(_awaited(awaitable))
        try:
            await self.until(task.done, "an end of what was awaited")
        except BaseException:
            task.cancel()
            raise
        return await task

    async def gather(self, *awaitables: Awaitable[Any]) -> list[Any]:
        """All outcomes, errors among them, of what may need time to pass."""
        return await self.passing(asyncio.gather(*awaitables, return_exceptions=True))

    async def silent(self) -> None:
        """Let so much time pass that whatever was to come has come."""
        await self.wait(self.silence)

    def provides(self, method: str) -> bool:
        """Whether an optional method was filled in."""
        return getattr(type(self), method) is not getattr(Harness, method)

    @property
    def queue_guarantee(self) -> Guarantee:
        """What handlers of queues ask in the cases that need no more than the broker gives."""
        return self.capabilities.queue_guarantee

    @property
    def topic_guarantee(self) -> Guarantee:
        return self.capabilities.topic_guarantee

    # --- used by the plugin ---------------------------------------------------------------------------

    async def begin(self) -> None:
        """Start, and ask the broker once what it can do."""
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self._unhandled.append(context))
        await self.start()
        known = self._known.get(type(self))
        if known is None:
            async with self.driver() as driver:
                known = self._known[type(self)] = driver.capabilities
        self.capabilities = known

    async def end(self) -> None:
        """Stop; nothing of ours may still run, and nothing may have failed unheard."""
        await self.stop()
        if self.clock is not None:
            await self.clock.quiet()
        left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("unibus ")]
        assert not left, f"tasks outlived their bus: {left}"
        assert not self._unhandled, f"errors that nobody handled: {self._unhandled}"

    # --- inside ---------------------------------------------------------------------------------------

    def _open_driver(self, url: Url, clock: Clock) -> Driver:
        return (self.connect or registry.connect)(url, clock)

    @asynccontextmanager
    async def _inside(self, buses: tuple[Bus, ...], *, consuming: bool) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for bus in buses:
                await self._enter(stack, bus, bus)
                if consuming:
                    await self._enter(stack, bus, bus.consuming())
            yield

    async def _enter(self, stack: AsyncExitStack, bus: Bus, context: AbstractAsyncContextManager[Bus]) -> None:
        await self.passing(context.__aenter__())

        async def leave() -> None:
            if bus in self._gone:
                with suppress(NotOpen):  # a killed process does not drain
                    await context.__aexit__(None, None, None)
            else:
                await self.passing(context.__aexit__(None, None, None))

        stack.push_async_callback(leave)

    async def _comes_true(self, condition: Callable[[], bool | Awaitable[bool]]) -> bool:
        """Whether it holds, after the program has done what it can do without time passing."""
        if await _holds(condition):
            return True
        if self.clock is None:
            await asyncio.sleep(0.005)
            return False
        for _ in range(4):
            await self.clock.quiet()
            if await _holds(condition):
                return True
        await asyncio.sleep(0.0005)  # what takes real time: threads
        return await _holds(condition)


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def _holds(condition: Callable[[], bool | Awaitable[bool]]) -> bool:
    answer = condition()
    return await answer if inspect.isawaitable(answer) else answer

"""The task of one subscription: it reads and claims, on a connection of its own, and heals what was deleted."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from unibus.driver import Clock, Disconnected, Gap, Reconnected, Recreated
from unibus.errors import AccessDenied, ConnectionLost, DestinationNotFound, DriverError
from unibus_redis import keys, scripts
from unibus_redis.calls import Calls, Script
from unibus_redis.entries import Entry
from unibus_redis.failures import FOREIGN, PASSING, Unreached, code_of, translate
from unibus_redis.holding import Holding
from unibus_redis.link import Argument, pack
from unibus_redis.nodes import Dedicated
from unibus_redis.options import BATCH

logger = logging.getLogger("unibus.redis")

_LONGEST_BLOCK = 2.0
_AT_ONCE = 0.001
_PAGE = 256
_FORGOTTEN = 3600.0
"""Seconds of silence after which a consumer that holds nothing is deleted."""
_REFUSED_PAUSE, _LONGEST_PAUSE = 5.0, 5.0


class Reading:
    """restore: declares stream and group anew. renew: the leases of what waits here. assure: that publishers know us.
    life: seconds that the stream lives on without us, 0 for ever.

    Of an ordered source one consumer is the active one; it holds a lock, and takes over all that its
    predecessor held, in order, before it reads on.
    """

    def __init__(
        self,
        stream: str,
        holding: Holding,
        calls: Calls,
        clock: Clock,
        *,
        restore: Callable[[], Awaitable[None]],
        renew: Callable[[], Awaitable[None]],
        assure: Callable[[], Awaitable[None]],
        life: float,
    ) -> None:
        self.stream = stream
        self.consumer = uuid.uuid4().hex
        self.lock = keys.active(stream)
        self.suspicious = False
        """Set by who finds that something is not ours though its lease ran."""
        self._holding = holding
        self._inbox = holding.inbox
        self._calls = calls
        self._clock = clock
        self._restore = restore
        self._renew = renew
        self._assure = assure
        self._life = life
        self._lease = holding.lease
        self._beat = min(self._lease / 4, _LONGEST_BLOCK)
        self._own: Dedicated | None = None
        self._client_id: int | None = None
        self._reading = self._closing = self._active = False
        self._tend_at = clock.monotonic()
        self._sweep_at = clock.monotonic()
        self._claim_from: str | None = "0-0"
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"unibus redis {self.stream}")

    async def stop(self, *, politely: bool = True) -> None:
        """The server ends a read that waits; cancelling it could leave with us what it has just taken."""
        self._closing = True
        task = self._task
        if task is not None:
            for _ in range(20):
                if not politely or not self._reading or task.done():
                    break
                try:
                    await self._calls.command(self.stream, "CLIENT", "UNBLOCK", self._client_id or 0)
                except DriverError:
                    break
                await asyncio.wait({task}, timeout=0.05)
            task.cancel()
            await asyncio.wait({task})
        await self._hang_up()

    # --- the task -------------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while not self._closing:
            try:
                await self._cycle(recovering=failures > 0)
                if failures:
                    self._holding.notify(Reconnected())
                failures = 0
            except DestinationNotFound as gone:
                if not failures:
                    self._holding.notify(Disconnected(str(gone)))
                failures = 1 if await self._restored() else failures + 1
            except Exception as error:  # whatever it is: a consumer must not fall silent
                if not isinstance(error, DriverError):
                    logger.debug("reading %s failed in no known way", self.stream, exc_info=error)
                if not failures:
                    self._holding.notify(Disconnected(str(error)))
                failures += 1
                await self._hang_up()
                await self._clock.sleep(
                    _REFUSED_PAUSE if isinstance(error, AccessDenied) else min(0.05 * 2**failures, _LONGEST_PAUSE)
                )

    async def _cycle(self, *, recovering: bool) -> None:
        """recovering: come back soon, so that it can be told that all is well."""
        if self._own is None:
            await self._arrive()
        if self.suspicious:
            await self._look_into_it()
        if self._clock.monotonic() >= self._tend_at:
            await self._tend()
        if self._holding.ordered and not self._active:
            await self._clock.sleep(self._beat)
        elif self._inbox.wanted <= 0:
            await self._inbox.wait_until_wanted(self._beat)
        elif self._claim_from is not None:
            await self._claim()
        else:
            await self._read(_AT_ONCE if recovering else self._beat)

    async def _tend(self) -> None:
        """What has to be seen to now and then. All of it lasts for several beats."""
        self._tend_at = self._clock.monotonic() + self._beat
        if self._holding.expired and self._holding.ordered:
            self._claim_from = "0-0"
        self._holding.expired = False
        if self._holding.ordered:
            await self._contend()
        elif self._claim_from is None:
            self._claim_from = "0-0"
        await self._renew()
        await self._assure()
        if self._life:
            await self._ask("PEXPIRE", self.stream, int(self._life * 1000))
        if self._clock.monotonic() >= self._sweep_at:
            self._sweep_at = self._clock.monotonic() + _FORGOTTEN
            await self._run_script(scripts.SWEEP, int(_FORGOTTEN * 1000))

    async def _arrive(self) -> None:
        """On a new connection: take what an answer that was lost has left with us."""
        try:
            self._own = await self._calls.dedicated(self.stream)
        except (Unreached, *FOREIGN) as error:
            self._calls.nodes.forget()
            raise translate(error, f"reading {self.stream} at {self._calls.where}") from error
        self._client_id = await self._ask("CLIENT", "ID")
        beginning = "-"
        while True:
            started = self._clock.monotonic()
            found, trimmed, last = await self._run_script(scripts.OWN, self.consumer, beginning, _PAGE)
            for entry_id, fields, count in found:
                if entry_id not in self._holding:
                    self._holding.take_over(entry_id, fields, count, started)
            self._tell_trimmed(trimmed)
            if last is None:
                return
            beginning = f"({last.decode()}"

    async def _contend(self) -> None:
        state = await self._ask_for_lock()
        if state != 1:
            self._holding.lose(self._holding.all())
        if state == 2:
            self._claim_from = "0-0"
        self._active = bool(state)

    async def _ask_for_lock(self) -> int:
        command = scripts.ACTIVATE.call([self.lock], [self.consumer, int(self._lease * 1000)])
        return int(await self._ask_script(scripts.ACTIVATE, command))

    async def _claim(self) -> None:
        """Take over from consumers that have fallen silent, or, newly active, from whoever came before."""
        room = min(self._inbox.wanted, BATCH.messages)
        idle = 0 if self._holding.ordered else int(self._lease * 1000)
        started = self._clock.monotonic()
        following, entries, counts, trimmed = await self._run_script(
            scripts.CLAIM, self.consumer, idle, self._claim_from or "0-0", room
        )
        for (entry_id, fields), count in zip(entries, counts, strict=True):
            self._holding.take_over(entry_id, fields, count, started)
        self._tell_trimmed(trimmed)
        self._claim_from = None if following == b"0-0" else following.decode()

    async def _read(self, block: float) -> None:
        count = min(self._inbox.wanted, BATCH.messages)
        started = self._clock.monotonic()
        self._reading = True
        try:
            if self._closing:
                return
            reply = await self._ask(
                "XREADGROUP", "GROUP", scripts.GROUP, self.consumer, "COUNT", count, "BLOCK", int(block * 1000),
                "STREAMS", self.stream, ">", waits=block,
            )  # fmt: skip
        finally:
            self._reading = False
        if reply:
            self._holding.take_new(reply[0][1], started)

    # --- healing --------------------------------------------------------------------------------------

    def _tell_trimmed(self, count: int) -> None:
        """Somebody trimmed the stream while they were pending: nobody has their bodies any more."""
        if count:
            self._holding.notify(Gap(count))

    async def _restored(self) -> bool:
        """Somebody deleted the stream or the group: begin with all that is there since."""
        self._holding.lose(self._holding.all())
        self._claim_from = "0-0"
        try:
            await self._restore()
        except DriverError as error:
            logger.debug("%s cannot be made anew: %s", self.stream, error)
            await self._clock.sleep(0.2)
            return False
        self._holding.notify(Recreated())
        return True

    async def _look_into_it(self) -> None:
        """Something that we held was nobody's: others may have made anew what was deleted, before we could notice."""
        self.suspicious = False
        before = self._unsettled()
        pending = await self._ask("XPENDING", self.stream, scripts.GROUP, "-", "+", len(before) + _PAGE, self.consumer)
        held = before & self._unsettled()  # nobody was about to settle them while the server was asked
        if held:
            remade = not held & {one[0] for one in pending}
        else:
            known = await self._ask("XINFO", "CONSUMERS", self.stream, scripts.GROUP)
            remade = not any(self.consumer.encode() in one for one in known)
        if remade:
            raise DestinationNotFound(f"{self.stream} or its group was deleted and made anew")

    def _unsettled(self) -> set[bytes]:
        return {one.token.id for one in (*self._inbox.held, *self._inbox.ready) if isinstance(one.token, Entry)}

    # --- asking ---------------------------------------------------------------------------------------

    async def _run_script(self, script: Script, *arguments: Argument) -> Any:
        return await self._ask_script(script, script.call([self.stream], arguments))

    async def _ask_script(self, script: Script, command: tuple[Argument, ...]) -> Any:
        try:
            return await self._asked(command, 0.0)
        except FOREIGN as error:
            if code_of(error) != "NOSCRIPT":
                raise translate(error, f"a script on {self.stream} at {self._calls.where}") from error
        return await self._ask(*script.in_full(command))

    async def _ask(self, *words: Argument, waits: float = 0.0) -> Any:
        try:
            return await self._asked(words, waits)
        except FOREIGN as error:
            raise translate(error, f"{words[0]!s} {self.stream} at {self._calls.where}") from error

    async def _asked(self, words: tuple[Argument, ...], waits: float) -> Any:
        if self._own is None:
            raise ConnectionLost(f"{self.stream}: the connection is gone")
        try:
            return await self._own.ask(pack(words), waits)
        except FOREIGN as error:
            if code_of(error) in PASSING:  # its slot has moved, or its master is one no more
                self._calls.nodes.forget()
            raise

    async def _hang_up(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            await own.close()

"""Rate limit: over it a message waits without a lane, and comes back when its turn is.

Outermost, so that what waits has claimed no key and spent no attempt.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from unibus.errors import ConfigurationError
from unibus.message import Message
from unibus.options import BatchHandler, BatchMiddleware, F, Handler, Middleware, Surroundings, record
from unibus.outcome import Postponed, seconds
from unibus.rates import RateStore
from unibus.turns import Turns

logger = logging.getLogger("unibus.consumer")

STORE_DOWN_PAUSE = 1.0
"""Seconds after a failure in which the store is not asked again: each question may hold its lane for a timeout."""
LEAST, LONGEST = 0.001, 366 * 24 * 3600.0
"""Seconds: stores count in milliseconds; nobody means a rate of less than one message in a year."""


@dataclass(frozen=True, slots=True)
class RateLimitOption:
    limit: int
    per: float
    burst: int
    store: str | RateStore | None
    name: str | None
    fail_open: bool

    kind = "rate_limit"
    rank = 10

    @property
    def every(self) -> float:
        """Seconds from one message to the next at this rate."""
        return self.per / self.limit

    def single(self, around: Surroundings) -> Middleware:
        ask = Gate(self, around).ask

        def wrap(inner: Handler) -> Handler:
            async def rate_limit(message: Message[Any]) -> object:
                (postponed,) = await ask((message,))
                if postponed is not None:
                    raise postponed
                return await inner(message)

            return rate_limit

        return wrap

    def batch(self, around: Surroundings) -> BatchMiddleware:
        ask = Gate(self, around).ask

        def wrap(inner: BatchHandler) -> BatchHandler:
            async def rate_limit(messages: Sequence[Message[Any]]) -> object:
                begun = []
                for message, postponed in zip(messages, await ask(messages), strict=True):
                    if postponed is None:
                        begun.append(message)
                    else:
                        message.mark = postponed
                return await inner(begun) if begun else None

            return rate_limit

        return wrap


class Gate:
    """The limit of one consumer, with what becomes of messages while its store is down."""

    def __init__(self, option: RateLimitOption, around: Surroundings) -> None:
        self._option = option
        self._store = around.open_rates(option.store)
        self._name = option.name or around.scope
        self._clock = around.clock
        self._turns = Turns(self._take, option.every, option.burst, around.clock, around.stats)
        self._down_until: float | None = None

    async def ask(self, messages: Sequence[Message[Any]]) -> Sequence[Postponed | None]:
        """For each None, if it may begin."""
        turns = await self._turns.ask([message.delivery for message in messages], lambda: self._down_until is None)
        return [None if turn is None else Postponed(turn=turn) for turn in turns]

    async def _take(self, amount: int) -> float:
        option, now = self._option, self._clock.monotonic()
        if self._down_until is not None and now < self._down_until:
            return 0.0 if option.fail_open else self._down_until - now
        try:
            wait = await self._store.take(self._name, amount, option.limit, option.per, option.burst)
        except Exception as error:
            if self._down_until is None:
                meanwhile = "is not kept" if option.fail_open else "lets nothing pass"
                logger.warning("rate limit %s %s while its store fails: %s", self._name, meanwhile, error)
            self._down_until = self._clock.monotonic() + STORE_DOWN_PAUSE
            return 0.0 if option.fail_open else STORE_DOWN_PAUSE
        if self._down_until is not None:
            self._down_until = None
            logger.info("rate limit %s is kept again", self._name)
        return wait


def rate_limit(
    limit: int,
    *,
    per: float | timedelta = 1.0,
    burst: int | None = None,
    store: str | RateStore | None = None,
    name: str | None = None,
    fail_open: bool = False,
) -> Callable[[F], F]:
    """Begin at most `limit` runs in `per` seconds; needs the extra "resilience".

    What is over it waits in the process, holding no lane and spending no attempt, and comes back in
    turn. It counts against `prefetch`, so that nothing more is fetched meanwhile; where the broker
    lets a message be held for a while only, a prefetch that cannot be worked off in that time is
    refused when the bus opens. Retries count, too.

    burst: how many may begin at once after a pause, default `limit` (so within the first `per`
    seconds up to twice as many begin); 1 spaces them evenly. store: default this process alone; a
    URL (redis://…) shares the limit between processes, whose clocks must agree. name: handlers
    that give one name and one rate share it; default the consumer's queue or group. fail_open:
    handle without a limit while the store is down; by default messages wait for it, since what the
    limit protects would be hit hardest by all processes at once.

    Raises ConfigurationError for numbers that cannot be meant.
    """
    for what, number in (("limit", limit), ("burst", limit if burst is None else burst)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ConfigurationError(f"rate_limit({what}={number!r}): a whole number, at least 1")
    within = seconds(per, "rate_limit(per=…)")
    if not LEAST <= within <= LONGEST:
        raise ConfigurationError(f"rate_limit(per={per!r}): from {LEAST:g} s to {LONGEST:,.0f} s, a year")
    if name == "":
        raise ConfigurationError("rate_limit(name=''): leave it out, or name the limit that handlers share")
    option = RateLimitOption(limit, within, limit if burst is None else burst, store, name, fail_open)
    return lambda function: record(function, option)

"""Retry: turns a failure into a decision, `Retry` while attempts are left, then `Reject`.

The core acts on it: it re-sends or waits, and acks only after a confirm. A retry that re-sent by
itself and returned would look like success to what stands outside it, and `idempotent` would then
skip the second attempt as a duplicate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from unibus import attributes as names
from unibus.driver import Clock
from unibus.errors import ConfigurationError, DecodeError
from unibus.message import Message
from unibus.middleware.backoff import Backoff, exponential, longest_wait
from unibus.options import BatchHandler, BatchMiddleware, F, Handler, Middleware, Surroundings, record
from unibus.outcome import Drop, Postponed, Reject, Retry, seconds

OnExhausted = Literal["dead_letter", "block"]


@dataclass(frozen=True, slots=True)
class RetryOption:
    """attempts: runs in all, the first included. max_elapsed: seconds since the first failure, or None."""

    on: tuple[type[BaseException], ...]
    attempts: int
    backoff: Backoff
    max_elapsed: float | None = None
    retry_if: Callable[[BaseException], bool] | None = None
    on_exhausted: OnExhausted = "dead_letter"

    kind = "retry"
    rank = 30

    def decide(
        self, message: Message[Any], error: BaseException, now: float
    ) -> Retry | Reject | Drop | Postponed | None:
        """What becomes of a failure; None: this policy does not take it."""
        if isinstance(error, (Reject, Drop, Postponed)):
            return error
        after: float | None = None
        cause: BaseException = error
        if isinstance(error, Retry):
            after, cause = error.after, error.cause or error
        elif (
            isinstance(error, DecodeError)
            or not isinstance(error, self.on)
            or (self.retry_if and not self.retry_if(error))
        ):
            return None
        if self._exhausted(message, now) and self.on_exhausted == "dead_letter":
            return Reject(f"failed {message.attempt} times: {type(cause).__name__}: {cause}", cause)
        return Retry(self.backoff(message.attempt) if after is None else after, cause)

    def _exhausted(self, message: Message[Any], now: float) -> bool:
        if message.attempt >= self.attempts:
            return True
        if self.max_elapsed is None:
            return False
        first = names.parse_time(message.attributes.get(names.FIRST_FAILURE))
        return first is not None and now - first.timestamp() >= self.max_elapsed

    def longest_wait(self) -> float:
        """The longest single wait that this policy can ask for, in seconds."""
        return max((longest_wait(self.backoff, failures) for failures in self._failures()), default=0.0)

    def total_wait(self) -> float:
        """All waits together at their longest, in seconds."""
        return sum(longest_wait(self.backoff, failures) for failures in self._failures())

    def _failures(self) -> range:
        return range(1, min(self.attempts, 1000))

    def single(self, around: Surroundings) -> Middleware:
        decide, clock = self.decide, around.clock

        def wrap(inner: Handler) -> Handler:
            async def retry(message: Message[Any]) -> object:
                try:
                    return await inner(message)
                except Exception as error:
                    decision = decide(message, error, clock.now())
                    if decision is None or decision is error:
                        raise
                    raise decision from error

            return retry

        return wrap

    def batch(self, around: Surroundings) -> BatchMiddleware:
        clock = around.clock

        def wrap(inner: BatchHandler) -> BatchHandler:
            async def retry(messages: Sequence[Message[Any]]) -> object:
                try:
                    return await inner(messages)
                except Exception as error:
                    for message in messages:
                        message.mark = message.mark or error
                    return None
                finally:
                    self._mark(messages, clock)

            return retry

        return wrap

    def _mark(self, messages: Sequence[Message[Any]], clock: Clock) -> None:
        for message in messages:
            if message.mark is not None:
                message.mark = self.decide(message, message.mark, clock.now()) or message.mark


def retry(
    *,
    on: type[BaseException] | tuple[type[BaseException], ...],
    attempts: int = 4,
    backoff: Backoff | None = None,
    max_elapsed: float | timedelta | None = None,
    retry_if: Callable[[BaseException], bool] | None = None,
    on_exhausted: OnExhausted = "dead_letter",
) -> Callable[[F], F]:
    """Run the handler again when it raises one of `on`.

    attempts: runs in all, the first included; 1 switches retry off. backoff: default exponential,
    1 s to 60 s with full jitter. max_elapsed: no further attempt so long after the first failure.
    retry_if: asked with the error, False means no retry. on_exhausted: "block" keeps trying, for
    ordered addresses where nothing may be skipped.
    """
    if attempts < 1:
        raise ConfigurationError(f"retry(attempts={attempts}): at least 1, the first run included")
    if on_exhausted not in ("dead_letter", "block"):
        raise ConfigurationError(f'retry(on_exhausted={on_exhausted!r}): use "dead_letter" or "block"')
    option = RetryOption(
        on=on if isinstance(on, tuple) else (on,),
        attempts=attempts,
        backoff=backoff or exponential(),
        max_elapsed=None if max_elapsed is None else seconds(max_elapsed),
        retry_if=retry_if,
        on_exhausted=on_exhausted,
    )
    return lambda function: record(function, option)


DEFAULT_RETRY = RetryOption(on=(Exception,), attempts=4, backoff=exponential())
"""What a handler without @retry gets: four runs, 1 s to 60 s with full jitter, then dead letter."""

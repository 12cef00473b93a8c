"""Retry: turns a failure into a decision, `Retry` while attempts are left, then `Reject`.

The core acts on it: it re-sends or waits, and acks only after a confirm. A retry that re-sent by
itself and returned would look like success to what stands outside it, and `idempotent` would then
skip the second attempt as a duplicate.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from unibus import attributes as names
from unibus.errors import ConfigurationError, DecodeError
from unibus.message import Message
from unibus.middleware.backoff import Backoff, exponential, longest_wait, next_wait
from unibus.middleware.budget import WINDOW, Budget
from unibus.options import BatchHandler, BatchMiddleware, F, Handler, Middleware, Surroundings, record
from unibus.outcome import Drop, Postponed, Reject, Retry, seconds

logger = logging.getLogger("unibus.consumer")

OnExhausted = Literal["dead_letter", "block"]

ASKED = 1000
"""Counts of failures for which a backoff is asked at start; with more it is taken to stay at the last."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """One `@retry`. attempts: runs in all, the first included. max_elapsed: seconds since the first failure, or None.

    budget: the share of what is handled that may be retried, or None.
    """

    on: tuple[type[BaseException], ...]
    attempts: int
    backoff: Backoff
    max_elapsed: float | None = None
    retry_if: Callable[[BaseException], bool] | None = None
    on_exhausted: OnExhausted = "dead_letter"
    budget: float | None = None

    def takes(self, error: BaseException) -> bool:
        if isinstance(error, DecodeError) or not isinstance(error, self.on):
            return False
        if self.retry_if is None:
            return True
        try:
            return bool(self.retry_if(error))
        except Exception as failed:  # the message keeps the attempts that it was promised
            logger.error("retry_if failed for %r, which is retried: %r", error, failed)
            return True

    def exhausted(self, message: Message[Any], now: float) -> bool:
        if self.on_exhausted == "block":
            return False
        if message.attempt >= self.attempts:
            return True
        if self.max_elapsed is None:
            return False
        first = names.parse_first_failure(message.attributes, now)
        return first is not None and now - first.timestamp() >= self.max_elapsed

    def wait(self, attempt: int, most: float) -> float:
        """Seconds after this attempt, at most `most`."""
        failures = min(attempt, self.retries)  # one that blocks goes on with its last wait
        try:
            return min(next_wait(self.backoff, failures), most)
        except ConfigurationError as error:
            spare = min(_DEFAULT_BACKOFF(failures), most)
            logger.error("%s; the next attempt is in %.1f s instead", error, spare)
            return spare

    @property
    def retries(self) -> int:
        """The most failures after which its backoff is asked."""
        return max(self.attempts - 1, 1 if self.on_exhausted == "block" else 0)

    def waits(self) -> list[float]:
        """The longest wait after each count of failures, in seconds, the first `ASKED` of them.

        Raises ConfigurationError where a backoff of the user's fails or says nonsense.
        """
        return [longest_wait(self.backoff, failures) for failures in range(1, min(self.retries, ASKED) + 1)]


@dataclass(frozen=True, slots=True)
class RetryOption:
    """The policies of a handler, the uppermost first. The first that takes an error decides; attempts are one count."""

    policies: tuple[RetryPolicy, ...]

    kind = "retry"
    rank = 30

    def longest_wait(self) -> float:
        """The longest single wait that the policies can ask for, in seconds. Raises as `RetryPolicy.waits`."""
        return max((max(policy.waits(), default=0.0) for policy in self.policies), default=0.0)

    def total_wait(self) -> float:
        """All waits together at their longest, in seconds, whichever policy decides. Raises as `RetryPolicy.waits`."""
        asked = [policy.waits() for policy in self.policies]
        retries = max(policy.retries for policy in self.policies)
        longest = [
            max((waits[failures] for waits in asked if failures < len(waits)), default=0.0)
            for failures in range(min(retries, ASKED))
        ]
        return sum(longest) + max(retries - ASKED, 0) * max(longest, default=0.0)

    def refuse_unreachable(self) -> None:
        """Raises ConfigurationError for a policy whose errors are all taken by one above it."""
        above: tuple[type[BaseException], ...] = ()
        for policy in self.policies:
            if all(issubclass(kind, above) for kind in policy.on):
                listed = ", ".join(kind.__name__ for kind in policy.on)
                raise ConfigurationError(
                    f"@retry(on={listed}) never decides: a @retry above it takes these errors; put it above that one"
                )
            if policy.retry_if is None:
                above += policy.on

    def single(self, around: Surroundings) -> Middleware:
        decide = Decisions(self, around).decide

        def wrap(inner: Handler) -> Handler:
            async def retry(message: Message[Any]) -> object:
                try:
                    return await inner(message)
                except Exception as error:
                    decision = decide(message, error)
                    if decision is None or decision is error:
                        raise
                    raise decision from error

            return retry

        return wrap

    def batch(self, around: Surroundings) -> BatchMiddleware:
        decide = Decisions(self, around).decide

        def wrap(inner: BatchHandler) -> BatchHandler:
            async def retry(messages: Sequence[Message[Any]]) -> object:
                try:
                    return await inner(messages)
                except Exception as error:
                    for message in messages:
                        message.mark = message.mark or error
                    return None
                finally:
                    for message in messages:
                        if message.mark is not None:
                            message.mark = decide(message, message.mark) or message.mark

            return retry

        return wrap


class Decisions:
    """What becomes of the failures of one consumer."""

    def __init__(self, option: RetryOption, around: Surroundings) -> None:
        self._policies = [(policy, policy.waits()) for policy in option.policies]
        self._around = around
        self._budget = Budget(around.scope, around.stats, around.clock)

    def decide(self, message: Message[Any], error: BaseException) -> Retry | Reject | Drop | Postponed | None:
        """None: no policy takes it."""
        if isinstance(error, (Reject, Drop, Postponed)):
            return error
        after: float | None = None
        cause = error
        if isinstance(error, Retry):
            after, cause = error.after, error.cause or error.__cause__ or error
        taken = next((found for found in self._policies if found[0].takes(cause)), None)
        if taken is None and not isinstance(error, Retry):
            return None
        policy, waits = taken or self._policies[0]
        if policy.exhausted(message, self._around.clock.now()):
            return Reject(f"failed {message.attempt} times: {type(cause).__name__}: {cause}", cause)
        wait = policy.wait(message.attempt, self._around.longest_wait) if after is None else after
        if policy.budget is not None and not self._budget.spend(policy.budget):
            wait = max(wait, self._brake(waits, message.attempt))
        return Retry(wait, cause)

    def _brake(self, waits: Sequence[float], attempt: int) -> float:
        """How long what is over the budget waits; never longer than was agreed with the broker at start."""
        if self._around.ordered:
            return waits[min(attempt, len(waits)) - 1]
        return min(max(*waits, WINDOW), self._around.longest_wait)


def retry(
    *,
    on: type[BaseException] | tuple[type[BaseException], ...],
    attempts: int = 4,
    backoff: Backoff | None = None,
    max_elapsed: float | timedelta | None = None,
    retry_if: Callable[[BaseException], bool] | None = None,
    on_exhausted: OnExhausted = "dead_letter",
    budget: float | None = None,
) -> Callable[[F], F]:
    """Run the handler again when it raises one of `on`.

    Several on one handler: the uppermost that takes an error decides about it, and all count the same attempts.

    attempts: runs in all, the first included; 1 switches retry off. backoff: default exponential,
    1 s to 60 s with full jitter; a function of your own gets the number of failures, and returns
    seconds. It is tried at start; where it fails later, the default waits instead, and an error is
    logged. max_elapsed: no further attempt so long after the first failure, in seconds. retry_if:
    asked with the error, False means that this policy does not take it; where it fails itself the
    error is taken, and logged. on_exhausted: "block" keeps trying, for ordered addresses where
    nothing may be skipped. A handler's own `raise Retry(after=…)` counts for the policy that takes
    what it was raised from, else for the uppermost.

    budget: against storms: retries within 10 s may be so large a share of what was handled within
    them, 0.2 for 20 %, and 10 in any case. What is over it waits longer: the policy's longest wait,
    at least 10 s where the broker can delay so long; on an ordered address the longest of this
    attempt. Default none: a retry waits at the broker and comes back behind what waits there, so
    `concurrency` bounds what a service in trouble gets to see, and waits stay those of the policy.

    Raises ConfigurationError for arguments that cannot be meant. A wait beyond what the broker can
    delay is UnsupportedCapability when the bus opens.
    """
    classes = on if isinstance(on, tuple) else (on,)
    if not classes or not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in classes):
        raise ConfigurationError(f"retry(on={on!r}): give an exception class, or a tuple of them")
    if isinstance(attempts, bool) or not isinstance(attempts, int) or not 1 <= attempts <= names.MAX_ATTEMPT:
        raise ConfigurationError(
            f"retry(attempts={attempts!r}): a whole number from 1, the first run included, to {names.MAX_ATTEMPT:,}"
        )
    if backoff is not None and not callable(backoff):
        raise ConfigurationError(
            f"retry(backoff={backoff!r}): use exponential(…), linear(…), constant(…) or a function"
        )
    if retry_if is not None and not callable(retry_if):
        raise ConfigurationError(f"retry(retry_if={retry_if!r}): give a function that is asked with the error")
    if on_exhausted not in ("dead_letter", "block"):
        raise ConfigurationError(f'retry(on_exhausted={on_exhausted!r}): use "dead_letter" or "block"')
    longest = None if max_elapsed is None else seconds(max_elapsed, "retry(max_elapsed=…)")
    if longest == 0:
        raise ConfigurationError("retry(max_elapsed=0): more than 0 seconds; attempts=1 switches retry off")
    policy = RetryPolicy(
        on=classes,
        attempts=attempts,
        backoff=_DEFAULT_BACKOFF if backoff is None else backoff,
        max_elapsed=longest,
        retry_if=retry_if,
        on_exhausted=on_exhausted,
        budget=None if budget is None else _share(budget),
    )
    return lambda function: record(function, RetryOption((policy,)))


def _share(budget: float) -> float:
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget <= 1:
        raise ConfigurationError(
            f"retry(budget={budget!r}): a share of what is handled, over 0 and up to 1 (0.2 is 20 %), or None"
        )
    return float(budget)


_DEFAULT_BACKOFF = exponential()
DEFAULT_RETRY = RetryOption((RetryPolicy(on=(Exception,), attempts=4, backoff=_DEFAULT_BACKOFF),))
"""What a handler without @retry gets: four runs, 1 s to 60 s with full jitter, then dead letter."""

"""From registrations to plans, and from a plan to a folded handler. Done once at start; errors name the handler."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unibus.address import Queue, TopicSubscription
from unibus.codec import decoder
from unibus.driver import Clock, Topic
from unibus.errors import ConfigurationError
from unibus.idempotency.claims import Claims
from unibus.idempotency.store import IdempotencyStore
from unibus.invocation import batch_invoker, invoker
from unibus.middleware.idempotent import IdempotentOption
from unibus.middleware.inbox import CommitOption
from unibus.middleware.rate_limit import RateLimitOption
from unibus.middleware.retry import DEFAULT_RETRY, RetryOption, RetryPolicy
from unibus.middleware.timeout import TimeoutOption
from unibus.middleware.use import UseOption
from unibus.options import Option, Surroundings, options_of
from unibus.plan import Folded, Plan
from unibus.router import Registration, errors_at
from unibus.signature import read_signature
from unibus.stats import ConsumerStats

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from unibus import config
    from unibus.rates import RateStore

logger = logging.getLogger("unibus")

DEFAULT_CONCURRENCY = 10
WORKERS_VARIABLE = "UNIBUS_WORKERS"


class Addresses:
    """Each address as it was declared: in the configuration, by an object, or by name alone."""

    def __init__(self, settings: config.Settings) -> None:
        self._queues: dict[str, tuple[Queue, str]] = {}
        self._topics: dict[str, tuple[Topic, str]] = {}
        for name, queue in settings.queues.items():
            self.declare(Queue(name, **queue.model_dump()), f"the configuration of queue {name!r}")
        for name, topic in settings.topics.items():
            self.declare(Topic(name, **topic.model_dump()), f"the configuration of topic {name!r}")

    def declare(self, address: Queue | Topic, by: str) -> None:
        """Raises ConfigurationError if it was declared in another way elsewhere."""
        known: dict[str, Any] = self._queues if isinstance(address, Queue) else self._topics
        if address.name not in known:
            known[address.name] = (address, by)
        elif known[address.name][0] != address:
            other, where = known[address.name]
            raise ConfigurationError(
                f"{by} declares {address!r}, but {where} declares {other!r}; declare it once and share it"
            )

    def queue(self, queue: str | Queue) -> Queue:
        name = queue if isinstance(queue, str) else queue.name
        if name in self._queues:
            return self._queues[name][0]
        return Queue(queue) if isinstance(queue, str) else queue

    def topic(self, topic: str | Topic) -> Topic:
        name = topic if isinstance(topic, str) else topic.name
        if name in self._topics:
            return self._topics[name][0]
        return Topic(topic) if isinstance(topic, str) else topic


def plan(
    registration: Registration,
    addresses: Addresses,
    settings: config.Settings,
    bus_type: type,
    resources: Mapping[Any, object],
    provided: Callable[[IdempotentOption], Any],
) -> Plan:
    """Raises ConfigurationError with the handler's file and line.

    provided: the type that the store of an option provides to handlers, or None.
    """
    with errors_at(registration.function):
        idempotency = _idempotency(registration.function)
        signature = read_signature(
            registration.function, bus_type, resources, lambda: None if idempotency is None else provided(idempotency)
        )
        if idempotency is not None and signature.transactional:
            idempotency.refuse_in_transaction(signature.asynchronous)
        override = settings.consumer(registration.name)
        source = registration.source
        if isinstance(source, Queue):
            source = addresses.queue(source)
        options = _options(registration, override)
        retry = next(option for option in options if isinstance(option, RetryOption))
        retry.refuse_unreachable()
        retry.longest_wait()  # a backoff of the user's that fails is said here, with the handler's place
        timeout = next((option.limit for option in options if isinstance(option, TimeoutOption)), None)
        concurrency = override.concurrency or registration.concurrency or DEFAULT_CONCURRENCY
        prefetch = override.prefetch or registration.prefetch or max(100, 2 * concurrency)
        return Plan(
            name=registration.name,
            source=source,
            function=registration.function,
            where=registration.where,
            signature=signature,
            concurrency=concurrency,
            prefetch=prefetch,
            max_batch=override.max_batch or registration.max_batch,
            max_wait=registration.max_wait if override.max_wait is None else override.max_wait,
            guarantee=registration.guarantee,
            dead_letters=_dead_letters(source, options_of(registration.function).dead_letter, addresses),
            retry=retry,
            timeout=timeout,
            decode=decoder(signature.payload, registration.where),
            turn_every=next((option.every for option in options if isinstance(option, RateLimitOption)), 0.0),
        )


def _options(registration: Registration, override: config.ConsumerSettings) -> list[Option]:
    """The handler's options with defaults and the configuration's overrides, outermost first."""
    by_kind: dict[str, Option] = {}
    own: list[Option] = []
    policies: list[RetryPolicy] = []
    for option in options_of(registration.function).middlewares:
        if isinstance(option, RetryOption):
            policies += option.policies
        elif option.kind == "use":
            own.append(option)
        else:
            by_kind[option.kind] = option
    if override.timeout is not None:
        by_kind["timeout"] = TimeoutOption(override.timeout)
    by_kind["retry"] = _retry(policies or DEFAULT_RETRY.policies, override)
    return sorted([*by_kind.values(), *own], key=lambda option: option.rank)


def _retry(policies: Sequence[RetryPolicy], override: config.ConsumerSettings) -> RetryOption:
    """All policies of a handler as one option; what the configuration sets, it sets for each."""
    if override.retry_attempts is not None:
        policies = [replace(policy, attempts=override.retry_attempts) for policy in policies]
    if override.retry_budget is not None:
        policies = [replace(policy, budget=override.retry_budget) for policy in policies]
    return RetryOption(tuple(policies))


def _dead_letters(source: Queue | TopicSubscription, said: Any, addresses: Addresses) -> Queue | None:
    if said is None:
        return None
    if isinstance(said, str):
        return addresses.queue(said)
    if isinstance(source, TopicSubscription) and source.group is None:
        return None  # an ephemeral subscriber has no name to keep them under: dropped, counted
    if isinstance(source, Queue) and source.is_dead_letters:
        return None
    return source.dead_letters


def fold(
    plan: Plan,
    settings: config.Settings,
    *,
    injected: Mapping[Any, object],
    executor: Executor,
    clock: Clock,
    longest_wait: float,
    open_claims: Callable[[Any, float, float], Claims],
    open_store: Callable[[Any], IdempotencyStore],
    open_rates: Callable[[str | RateStore | None], RateStore],
    middleware: Sequence[Callable[[Any], Any]],
) -> Folded:
    """The handler with its middlewares around it, innermost first. longest_wait: as in `Surroundings`."""
    stats = ConsumerStats()
    transactional = plan.signature.transactional
    around = Surroundings(
        plan.source.name, clock, stats, plan.ordered, transactional, longest_wait, open_claims, open_store, open_rates
    )
    registration = Registration(plan.function, plan.source, False, None, None, 1, 0.0, plan.guarantee)
    options = _options(registration, settings.consumer(plan.name))
    if transactional:
        options = sorted([*options, CommitOption()], key=lambda option: option.rank)
    first_own = next((place for place, option in enumerate(options) if option.kind == "use"), len(options))
    options[first_own:first_own] = [UseOption(wrap) for wrap in middleware]
    with errors_at(plan.function):
        if plan.signature.batch:
            batch = batch_invoker(plan.function, plan.signature, injected, executor, stats)
            for option in reversed(options):
                batch = option.batch(around)(batch)
            return Folded(None, batch, stats)
        single = invoker(plan.function, plan.signature, injected, executor, stats)
        for option in reversed(options):
            single = option.single(around)(single)
        return Folded(single, None, stats)


def refuse_memory_store_among_workers(function: Callable[..., Any], default_store: object) -> None:
    """A store in the process knows nothing of the other workers."""
    workers = os.environ.get(WORKERS_VARIABLE, "1")
    option = _idempotency(function)
    if option is not None and workers != "1" and (option.store or default_store) == "memory":
        with errors_at(function):
            raise ConfigurationError(
                f'@idempotent(store="memory") with {workers} workers: each would handle every key once; '
                "use a shared store"
            )


def warn_of_limits_among_workers(registration: Registration) -> None:
    """A limit that a process keeps for itself is, with several, as many times as high."""
    workers = os.environ.get(WORKERS_VARIABLE, "1")
    for option in options_of(registration.function).middlewares:
        if isinstance(option, RateLimitOption) and workers != "1" and option.store is None:
            logger.warning(
                "each of %s workers keeps the @rate_limit of %s for itself; share it through a store",
                workers, registration.where,
            )  # fmt: skip


def _idempotency(function: Callable[..., Any]) -> IdempotentOption | None:
    options = options_of(function).middlewares
    return next((option for option in options if isinstance(option, IdempotentOption)), None)

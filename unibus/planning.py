"""From registrations to plans, and from a plan to a folded handler. Done once at start; errors name the handler."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unibus.address import Queue, TopicSubscription
from unibus.codec import decoder
from unibus.driver import Clock, Topic
from unibus.errors import ConfigurationError
from unibus.idempotency.claims import Claims
from unibus.invocation import batch_invoker, invoker
from unibus.middleware.idempotent import IdempotentOption
from unibus.middleware.retry import DEFAULT_RETRY, RetryOption
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
) -> Plan:
    """Raises ConfigurationError with the handler's file and line."""
    with errors_at(registration.function):
        signature = read_signature(registration.function, bus_type, resources)
        override = settings.consumer(registration.name)
        source = registration.source
        if isinstance(source, Queue):
            source = addresses.queue(source)
        options = _options(registration, override)
        retry = next(option for option in options if isinstance(option, RetryOption))
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
        )


def _options(registration: Registration, override: config.ConsumerSettings) -> list[Option]:
    """The handler's options with defaults and the configuration's overrides, outermost first."""
    by_kind: dict[str, Option] = {"retry": DEFAULT_RETRY}
    own: list[Option] = []
    for option in options_of(registration.function).middlewares:
        if option.kind == "use":
            own.append(option)
        else:
            by_kind[option.kind] = option
    if override.timeout is not None:
        by_kind["timeout"] = TimeoutOption(override.timeout)
    if override.retry_attempts is not None:
        retry = by_kind["retry"]
        assert isinstance(retry, RetryOption)
        by_kind["retry"] = replace(retry, attempts=override.retry_attempts)
    return sorted([*by_kind.values(), *own], key=lambda option: option.rank)


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
    open_claims: Callable[[Any, float, float], Claims],
    middleware: Sequence[Callable[[Any], Any]],
) -> Folded:
    """The handler with its middlewares around it, innermost first."""
    stats = ConsumerStats()
    around = Surroundings(plan.source.name, clock, stats, plan.ordered, open_claims)
    registration = Registration(plan.function, plan.source, False, None, None, 1, 0.0, plan.guarantee)
    options = _options(registration, settings.consumer(plan.name))
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
    for option in options_of(function).middlewares:
        if isinstance(option, IdempotentOption) and workers != "1" and (option.store or default_store) == "memory":
            with errors_at(function):
                raise ConfigurationError(
                    f'@idempotent(store="memory") with {workers} workers: each would handle every key once; '
                    "use a shared store"
                )

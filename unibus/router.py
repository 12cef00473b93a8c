"""Registering handlers: the decorators that a Bus and a Router share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from unibus.address import Ordering, Queue, Start, TopicSubscription
from unibus.driver import Guarantee
from unibus.errors import ConfigurationError
from unibus.names import check_user_name
from unibus.options import F
from unibus.signature import refuse_method, where


@dataclass(frozen=True, slots=True)
class Registration:
    """A handler and what its decorator said. None: the default, or the configuration's.

    named: whether the queue was given by name alone, so that a declaration elsewhere fills it in.
    """

    function: Callable[..., Any]
    source: Queue | TopicSubscription
    named: bool
    concurrency: int | None
    prefetch: int | None
    max_batch: int
    max_wait: float
    guarantee: Guarantee

    @property
    def name(self) -> str:
        """The queue, the group, or an ephemeral subscriber's patterns."""
        return self.source.name if isinstance(self.source, Queue) or self.source.group is None else self.source.group

    @property
    def where(self) -> str:
        return where(self.function)

    def with_prefix(self, prefix: str) -> Registration:
        if not prefix:
            return self
        if isinstance(self.source, Queue):
            return replace(self, source=replace(self.source, name=prefix + self.source.name))
        patterns = tuple(prefix + pattern for pattern in self.source.patterns)
        group = None if self.source.group is None else prefix + self.source.group
        return replace(self, source=replace(self.source, patterns=patterns, group=group))


class Router:
    """A set of handlers, to be included in a Bus: so that modules need not import the Bus."""

    def __init__(self) -> None:
        self._registrations: list[Registration] = []

    @property
    def registrations(self) -> tuple[Registration, ...]:
        return tuple(self._registrations)

    def consumer(
        self,
        queue: str | Queue,
        *,
        concurrency: int | None = None,
        prefetch: int | None = None,
        max_batch: int = 100,
        max_wait: float = 0.1,
        guarantee: Guarantee = "at_least_once",
    ) -> Callable[[F], F]:
        """Handle the messages of a queue.

        concurrency: runs at once, default 10. prefetch: messages held at once, default
        max(100, 2 x concurrency). max_batch, max_wait (seconds): for a handler that takes
        list[Message[T]]. guarantee: "at_most_once" accepts a broker that can lose.
        """

        def register(function: F) -> F:
            with errors_at(function):
                source = queue if isinstance(queue, Queue) else Queue(check_own(queue))
                named = isinstance(queue, str)
                self._register(
                    Registration(function, source, named, concurrency, prefetch, max_batch, max_wait, guarantee)
                )
            return function

        return register

    def subscriber(
        self,
        *patterns: str,
        group: str | None = None,
        ordering: Ordering = "none",
        start: Start = "new",
        concurrency: int | None = None,
        prefetch: int | None = None,
        max_batch: int = 100,
        max_wait: float = 0.1,
        guarantee: Guarantee = "at_least_once",
    ) -> Callable[[F], F]:
        """Handle what is published to topics under the patterns (`*` one word, `#` zero or more).

        group: gets each message once, shared by its members; without one the subscriber is
        ephemeral and hears only what is published while it is connected. start: "earliest" begins
        a new group with what the broker still keeps, where it can. The rest as for `consumer`.
        """

        def register(function: F) -> F:
            with errors_at(function):
                if group is not None:
                    check_user_name(group, "group")
                source = TopicSubscription(patterns, group, ordering, start)
                self._register(
                    Registration(function, source, False, concurrency, prefetch, max_batch, max_wait, guarantee)
                )
            return function

        return register

    def include(self, router: Router, *, prefix: str = "") -> None:
        """Take over a router's handlers; `prefix` is put before their queues, groups and patterns."""
        for registration in router.registrations:
            with errors_at(registration.function):
                self._register(registration.with_prefix(prefix))

    def _register(self, registration: Registration) -> None:
        refuse_method(registration.function)
        for what, value in (("concurrency", registration.concurrency), ("prefetch", registration.prefetch)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{what}={value} is not at least 1")
        for known in self._registrations:
            group_less = isinstance(registration.source, TopicSubscription) and registration.source.group is None
            if not group_less and _kind(known) == _kind(registration) and known.name == registration.name:
                raise ConfigurationError(
                    f"{_kind(registration)} {registration.name!r} has two handlers, "
                    f"{known.where} and {registration.where}; "
                    "one handler may take several patterns or a union of types"
                )
        self._registrations.append(registration)


@contextmanager
def errors_at(function: Callable[..., Any]) -> Iterator[None]:
    """Put the handler's file and line in front of what is wrong with its registration."""
    try:
        yield
    except ConfigurationError as error:
        at = where(function)
        raise error if at in str(error) else type(error)(f"{at}: {error}") from error


def check_own(queue: str) -> str:
    """A user's queue: what unibus makes itself may be consumed only where it is a dead-letter queue."""
    return queue if queue.endswith(".dlq") else check_user_name(queue, "queue")


def _kind(registration: Registration) -> str:
    return "queue" if isinstance(registration.source, Queue) else "group"

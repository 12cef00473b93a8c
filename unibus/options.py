"""What decorators leave on a handler: options, read once at start. The function itself stays as it was."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from unibus.errors import ConfigurationError
from unibus.message import Message

if TYPE_CHECKING:
    from unibus.driver import Clock
    from unibus.idempotency.claims import Claims
    from unibus.idempotency.store import IdempotencyStore
    from unibus.rates import RateStore
    from unibus.stats import ConsumerStats

F = TypeVar("F", bound=Callable[..., Any])

Handler: TypeAlias = Callable[[Message[Any]], Awaitable[object]]
Middleware: TypeAlias = Callable[[Handler], Handler]
BatchHandler: TypeAlias = Callable[[Sequence[Message[Any]]], Awaitable[object]]
BatchMiddleware: TypeAlias = Callable[[BatchHandler], BatchHandler]

REPEATED = {"use", "retry"}
"""Of these a handler may have several, the uppermost first."""

_ATTRIBUTE = "__unibus_options__"


@dataclass(slots=True)
class Surroundings:
    """What a middleware may use, per consumer: built once at start.

    scope: the name of the consumer's source, under which its idempotency keys are kept. longest_wait: the longest
    single wait that a retry can have here, in seconds. transactional: whether the handler takes what its idempotency
    store provides.
    """

    scope: str
    clock: Clock
    stats: ConsumerStats
    ordered: bool
    transactional: bool
    longest_wait: float
    open_claims: Callable[[Any, float, float], Claims]
    open_store: Callable[[Any], IdempotencyStore]
    open_rates: Callable[[str | RateStore | None], RateStore]


@runtime_checkable
class Option(Protocol):
    """A middleware option: `kind` is unique on a handler unless it is in REPEATED; lower ranks are outer."""

    @property
    def kind(self) -> str: ...
    @property
    def rank(self) -> int: ...
    def single(self, around: Surroundings) -> Middleware: ...
    def batch(self, around: Surroundings) -> BatchMiddleware: ...


@dataclass(slots=True)
class HandlerOptions:
    """All that decorators recorded. dead_letter: a name, None (drop), or `...` for the default."""

    middlewares: list[Option] = field(default_factory=list)
    dead_letter: Any = ...


def record(function: F, option: Option) -> F:
    """Add a middleware option to the function and return the function."""
    options = _own_options(function)
    if option.kind not in REPEATED and any(known.kind == option.kind for known in options.middlewares):
        raise ConfigurationError(f"{_name(function)} has two @{option.kind}; one is enough")
    options.middlewares.insert(0, option)  # decorators run inside out: the last one is the outermost
    return function


def record_dead_letter(function: F, destination: str | None) -> F:
    _own_options(function).dead_letter = destination
    return function


def options_of(function: Callable[..., Any]) -> HandlerOptions:
    """The recorded options, or fresh ones."""
    options = getattr(function, _ATTRIBUTE, None)
    return options if isinstance(options, HandlerOptions) else HandlerOptions()


def _own_options(function: Callable[..., Any]) -> HandlerOptions:
    options = getattr(function, _ATTRIBUTE, None)
    if isinstance(options, HandlerOptions):
        return options
    options = HandlerOptions()
    try:
        setattr(function, _ATTRIBUTE, options)
    except AttributeError as error:
        raise ConfigurationError(
            f"{_name(function)} cannot carry options (it is a bound method or a builtin); "
            "decorate the function in the class, or wrap it in a function"
        ) from error
    return options


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", function))

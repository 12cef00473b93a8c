"""What a handler may have injected: what the bus's lifespan yields, by type."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from unibus.errors import ConfigurationError
from unibus.signature import where

Lifespan: TypeAlias = Callable[..., Any]
"""An async generator function, plain or under @asynccontextmanager, with no parameter or the Bus."""


def yielded_types(lifespan: Lifespan | None) -> tuple[Any, ...]:
    """The types that it yields, read from its return annotation so that nothing need be opened."""
    if lifespan is None:
        return ()
    at = where(lifespan)
    try:
        annotation = get_type_hints(inspect.unwrap(lifespan)).get("return")
    except (NameError, TypeError) as error:
        raise ConfigurationError(f"lifespan {at}: its return annotation cannot be resolved ({error})") from error
    origin = get_origin(annotation)
    if annotation is None or not (
        isinstance(origin, type) and issubclass(origin, (AsyncIterator, AbstractAsyncContextManager))
    ):
        raise ConfigurationError(
            f"lifespan {at}: say what it yields, as AsyncIterator[Pool] or AsyncIterator[tuple[Pool, Mailer]]"
        )
    (inner, *_) = get_args(annotation)
    if inner is None or inner is type(None):
        return ()
    types = get_args(inner) if get_origin(inner) is tuple else (inner,)
    if len(set(types)) < len(types):
        raise ConfigurationError(f"lifespan {at} yields one type twice, so a handler could not say which it wants")
    return tuple(types)


async def enter(lifespan: Lifespan | None, bus: object, stack: AsyncExitStack) -> dict[Any, object]:
    """Open it and return what it yielded by type; the stack closes it."""
    types = yielded_types(lifespan)
    if lifespan is None:
        return {}
    parameters = inspect.signature(lifespan).parameters
    made = lifespan(bus) if parameters else lifespan()
    if isinstance(made, AsyncGenerator):
        made = asynccontextmanager(lambda: made)()
    value = await stack.enter_async_context(made)
    if not types:
        return {}
    values = value if len(types) > 1 else (value,)
    if len(values) != len(types):
        raise ConfigurationError(
            f"lifespan {where(lifespan)} says that it yields {len(types)} things, and yielded {len(values)}"
        )
    return dict(zip(types, values, strict=True))

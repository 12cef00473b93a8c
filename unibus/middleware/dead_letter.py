"""Where a message goes that nobody will try again. It wraps nothing: the core reads the destination."""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType

from unibus.errors import ConfigurationError
from unibus.names import check_name
from unibus.options import F, record_dead_letter


def dead_letter(destination: str | EllipsisType | None = ...) -> Callable[[F], F]:
    """Name the queue for this handler's dead letters.

    Without an argument: `<queue>.dlq`, or `unibus.group.<group>.dlq`, on the same broker (which is
    the default without the decorator, too). None: drop them, counted.
    """
    if isinstance(destination, str):
        check_name(destination, "dead-letter queue")
    elif destination is not None and destination is not ...:
        raise ConfigurationError(f"dead_letter({destination!r}): give a queue's name, or None to drop")
    return lambda function: record_dead_letter(function, destination)  # type: ignore[arg-type]

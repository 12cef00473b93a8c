"""A user's own middlewares: functions from a handler to a handler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unibus.options import BatchMiddleware, F, Middleware, Surroundings, record


@dataclass(frozen=True, slots=True)
class UseOption:
    middleware: Callable[[Any], Any]

    kind = "use"
    rank = 50

    def single(self, around: Surroundings) -> Middleware:
        return self.middleware

    def batch(self, around: Surroundings) -> BatchMiddleware:
        return self.middleware


def use(middleware: Middleware | BatchMiddleware) -> Callable[[F], F]:
    """Wrap this handler in a middleware of your own, inside the built-in ones. The first is the outermost.

    A middleware of a handler takes and returns `async def (message) -> object`; one of a batch
    handler `async def (messages) -> object`. To return is success; to raise is failure, judged by
    the retry policy; `Retry`, `Reject` and `Drop` are decisions.
    """
    return lambda function: record(function, UseOption(middleware))

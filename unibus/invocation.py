"""The innermost call: from a message to the user's function, with its parameters filled in."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unibus.errors import HandlerCancelled
from unibus.idempotency.transaction import current_inbox
from unibus.lane import current_lane
from unibus.message import Message
from unibus.options import BatchHandler, Handler
from unibus.signature import Parameter, Signature
from unibus.stats import ConsumerStats

if TYPE_CHECKING:
    from concurrent.futures import Executor


def invoker(
    function: Callable[..., Any],
    signature: Signature,
    injected: Mapping[Any, object],
    executor: Executor,
    stats: ConsumerStats,
) -> Handler:
    """One message in, the function's own result out; counts the runs that succeed."""
    call = _call(function, signature, injected, executor)

    async def invoke(message: Message[Any]) -> object:
        try:
            result = await call(message)
        except asyncio.CancelledError as error:
            if (failure := _foreign_cancel()) is None:
                raise
            raise failure from error
        stats.handled += 1
        return result

    return invoke


def batch_invoker(
    function: Callable[..., Any],
    signature: Signature,
    injected: Mapping[Any, object],
    executor: Executor,
    stats: ConsumerStats,
) -> BatchHandler:
    """A batch in; what the handler marked is no success."""
    call = _call(function, signature, injected, executor)

    async def invoke(messages: Sequence[Message[Any]]) -> object:
        try:
            result = await call(messages)
        except asyncio.CancelledError as error:
            if (failure := _foreign_cancel()) is None:
                raise
            raise failure from error
        stats.handled += sum(message.mark is None for message in messages)
        return result

    return invoke


def _foreign_cancel() -> HandlerCancelled | None:
    """None if we caused the cancellation, else the failure that it is."""
    lane = current_lane.get(None)
    if lane is None or lane.reason is not None:
        return None
    if lane.task is not None and lane.task.cancelling():
        lane.cancelled_by_others = True
        lane.forget_cancel()
    return HandlerCancelled("the handler ended with a CancelledError that unibus did not cause")


def _call(
    function: Callable[..., Any], signature: Signature, injected: Mapping[Any, object], executor: Executor
) -> Callable[[Any], Awaitable[Any]]:
    roles = [parameter.role for parameter in signature.parameters]
    if signature.asynchronous and all(parameter.positional for parameter in signature.parameters):
        # The shapes of nearly all handlers, each without a loop over parameters.
        if signature.batch and len(roles) == 1:
            return function
        if not signature.batch and roles == ["payload"]:
            return lambda message: function(message.data)
        if roles == ["message"]:
            return function
        if not signature.batch and roles == ["payload", "message"]:
            return lambda message: function(message.data, message)
    fill = _filler(signature, injected)
    if signature.asynchronous:
        return lambda subject: function(**fill(subject))
    return lambda subject: _in_thread(executor, lambda: function(**fill(subject)))


def _filler(signature: Signature, injected: Mapping[Any, object]) -> Callable[[Any], dict[str, object]]:
    fixed = {
        parameter.name: injected[parameter.annotation]
        for parameter in signature.parameters
        if parameter.role in ("bus", "resource")
    }
    moving = [parameter for parameter in signature.parameters if parameter.role in ("payload", "message")]
    provided = [parameter.name for parameter in signature.parameters if parameter.role == "provided"]

    def fill(subject: Any) -> dict[str, object]:
        values = dict(fixed)
        for parameter in moving:
            values[parameter.name] = _value(parameter, subject, signature.batch)
        if provided and (inbox := current_inbox.get()) is not None:
            values.update(dict.fromkeys(provided, inbox.resource))
        return values

    return fill


def _value(parameter: Parameter, subject: Any, batch: bool) -> object:
    return subject if batch or parameter.role == "message" else subject.data


async def _in_thread(executor: Executor, call: Callable[[], object]) -> object:
    """A thread cannot be cancelled: its message stays ours until it ends, whatever is asked meanwhile."""
    context = contextvars.copy_context()
    future = asyncio.get_running_loop().run_in_executor(executor, context.run, call)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()
        raise cancelled
    return future.result()

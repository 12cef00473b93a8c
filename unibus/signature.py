"""A handler's parameters, read once at start: which one is the payload, and what is injected."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from unibus.errors import ConfigurationError
from unibus.message import Message

Role: TypeAlias = Literal["payload", "message", "bus", "resource", "provided"]


@dataclass(frozen=True, slots=True)
class Parameter:
    name: str
    role: Role
    annotation: Any
    positional: bool


@dataclass(frozen=True, slots=True)
class Signature:
    """batch: whether the handler takes `list[Message[T]]`. payload: what the body is decoded to."""

    payload: Any
    parameters: tuple[Parameter, ...]
    batch: bool
    asynchronous: bool

    @property
    def transactional(self) -> bool:
        """Whether the handler takes what its idempotency store provides."""
        return any(parameter.role == "provided" for parameter in self.parameters)


def where(function: Callable[..., object]) -> str:
    """The function's name, file and line, for errors."""
    name = getattr(function, "__qualname__", repr(function))
    code = getattr(inspect.unwrap(function), "__code__", None)
    return name if code is None else f"{name} ({code.co_filename}:{code.co_firstlineno})"


def refuse_method(function: Callable[..., object]) -> None:
    """A method decorated in its class has no instance yet: say how to bind one."""
    try:
        first = next(iter(inspect.signature(function).parameters), None)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{where(function)} cannot be a handler: it has no signature to read") from error
    if first in ("self", "cls") and not inspect.ismethod(function):
        raise ConfigurationError(
            f"{where(function)} is a method without its object; register it once the object exists: "
            f'bus.consumer("…")(instance.{function.__name__})'
        )


def read_signature(
    function: Callable[..., object], bus_type: type, resources: Mapping[Any, object], provided: Callable[[], Any]
) -> Signature:
    """Raises ConfigurationError with the handler's file and line.

    provided: tells the type that the handler's idempotency store provides; asked only where a parameter may be of it.
    """
    at = where(function)
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{at}: an annotation cannot be resolved ({error}); import what it names at module level, "
            "not below `if TYPE_CHECKING`"
        ) from error
    roles = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConfigurationError(f"{at}: a handler takes no *{parameter.name}; name its parameters")
        if parameter.name not in hints:
            if parameter.default is not parameter.empty:
                continue
            raise ConfigurationError(
                f"{at}: parameter {parameter.name!r} has no annotation, so nothing says what to pass"
            )
        annotation = hints[parameter.name]
        role = _role(annotation, bus_type, resources)
        if role == "payload" and parameter.default is not parameter.empty:
            continue  # a setting with a default, not the payload
        roles.append(Parameter(parameter.name, role, annotation, parameter.kind is not parameter.KEYWORD_ONLY))
    if _has_spare(roles) and (own := provided()) is not None:
        roles = [_of_store(at, parameter) if parameter.annotation is own else parameter for parameter in roles]
    return _judge(at, function, roles)


def _has_spare(parameters: list[Parameter]) -> bool:
    """Whether there is one that the handler's idempotency store may provide."""
    payloads = [parameter for parameter in parameters if parameter.role == "payload"]
    messages = [parameter for parameter in parameters if parameter.role == "message"]
    return (
        len(payloads) > 1
        or any(parameter.role == "resource" for parameter in parameters)
        or any(_inside(message.annotation) != payload.annotation for message in messages for payload in payloads)
    )


def _of_store(at: str, parameter: Parameter) -> Parameter:
    if parameter.role == "resource":
        raise ConfigurationError(
            f"{at}: parameter {parameter.name!r} is provided by the bus's lifespan and by the handler's store, "
            "whose transaction has the message's key in it; give the lifespan's a type of its own"
        )
    return replace(parameter, role="provided")


def _judge(at: str, function: Callable[..., object], parameters: list[Parameter]) -> Signature:
    payloads = [parameter for parameter in parameters if parameter.role == "payload"]
    messages = [parameter for parameter in parameters if parameter.role == "message"]
    if len(payloads) > 1:
        listed = ", ".join(repr(parameter.name) for parameter in payloads)
        raise ConfigurationError(
            f"{at}: {listed} could each be the payload; exactly one can. Others must be Message[…], Bus, "
            "a type that the bus's lifespan yields, what the store of its @idempotent provides (a SQL store: "
            "AsyncSession), or have a default"
        )
    if not payloads and not messages:
        raise ConfigurationError(f"{at}: no payload parameter; a handler takes one (a model, bytes, …) or a Message[…]")
    if len(messages) > 1:
        raise ConfigurationError(f"{at}: more than one Message parameter")
    batch = (
        bool(payloads)
        and get_origin(payloads[0].annotation) is list
        and _is_message(get_args(payloads[0].annotation)[0])
    )
    payload: Any
    if batch:
        if messages:
            raise ConfigurationError(f"{at}: a batch handler takes list[Message[…]] and no single Message beside it")
        payload = _inside(get_args(payloads[0].annotation)[0])
    elif payloads:
        payload = payloads[0].annotation
        if messages and (stated := _inside(messages[0].annotation)) not in (Any, payload):
            raise ConfigurationError(
                f"{at}: the payload is {payload!r} but the message is Message[{stated!r}]; the two must be the same, "
                "unless the bus's lifespan yields the one, or the store of its @idempotent provides it"
            )
    else:
        payload = _inside(messages[0].annotation)
    call = function if inspect.isroutine(function) else type(function).__call__
    return Signature(payload, tuple(parameters), batch, inspect.iscoroutinefunction(call))


def _role(annotation: Any, bus_type: type, resources: Mapping[Any, object]) -> Role:
    if annotation is bus_type:
        return "bus"
    if _is_message(annotation):
        return "message"
    try:
        return "resource" if annotation in resources else "payload"
    except TypeError:  # an unhashable annotation cannot be a resource
        return "payload"


def _is_message(annotation: Any) -> bool:
    return annotation is Message or get_origin(annotation) is Message


def _inside(annotation: Any) -> Any:
    """The T of Message[T]; a bare Message takes anything."""
    arguments = get_args(annotation)
    return arguments[0] if arguments else Any

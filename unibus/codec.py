"""Payloads to bytes and back. Payload bytes stay payload bytes: the envelope travels beside them.

Every payload is JSON but `bytes`, which travels as it is. Never pickle; a header never names a
class outside the handler's annotation.
"""

from __future__ import annotations

import re
import types
import typing
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, Union, get_args, get_origin

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from unibus import attributes as names
from unibus.driver import Delivery
from unibus.errors import ConfigurationError, DecodeError, EncodeError

Decode: TypeAlias = Callable[[Delivery], Any]


def message_type(cls: type) -> str:
    """The name under which a payload type travels: its `message_type`, else the class's name."""
    name = getattr(cls, "message_type", None)
    return name if isinstance(name, str) else getattr(cls, "__name__", str(cls))


def message_version(cls: type) -> str | None:
    version = getattr(cls, "message_version", None)
    return None if version is None else str(version)


def adapter_for(annotation: Any, what: str) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation)
    except PydanticUserError as error:
        raise ConfigurationError(f"{what}: pydantic cannot make a schema for {annotation!r}: {error}") from error


def _problems(error: ValidationError) -> str:
    """What does not validate, without the values: they may be secret and end in logs."""
    details = error.errors(include_url=False, include_input=False, include_context=False)
    shown = "; ".join(f"{'.'.join(map(str, detail['loc'])) or 'payload'}: {detail['msg']}" for detail in details[:5])
    more = f"; and {len(details) - 5} more" if len(details) > 5 else ""
    return f"{error.title}: {shown}{more}"


# --- decoding -------------------------------------------------------------------------------------


def decoder(annotation: Any, what: str) -> Decode:
    """A function from a delivery to the validated payload, built once per handler.

    For a union of classes the message's type chooses among the members; an unknown or missing type
    leaves the choice to pydantic.
    """
    if annotation is bytes:
        return _raw
    decode = _decode_with(adapter_for(annotation, what))
    members = _members(annotation)
    if len(members) < 2:
        return decode
    by_type = {message_type(member): _decode_with(adapter_for(member, what)) for member in members}
    if len(by_type) < len(members):
        raise ConfigurationError(
            f"{what}: two members of {annotation} travel under one type name; give them a message_type of their own"
        )

    def decode_member(delivery: Delivery) -> Any:
        name = delivery.attributes.get(names.TYPE)
        return (by_type.get(name, decode) if name is not None else decode)(delivery)

    return decode_member


def _raw(delivery: Delivery) -> bytes:
    if delivery.body is None:
        raise DecodeError("the message has no body (a tombstone) where the handler takes bytes")
    return delivery.body


def _decode_with(adapter: TypeAdapter[Any]) -> Decode:
    # The schema's own validator, one call below TypeAdapter: this runs for every message.
    validate_json, validate_python = adapter.validator.validate_json, adapter.validator.validate_python

    def decode(delivery: Delivery) -> Any:
        body = delivery.body
        try:
            return validate_python(None) if body is None else validate_json(body)
        except ValidationError as error:
            raise DecodeError(f"the payload is not valid: {_problems(error)}") from error

    return decode


def _members(annotation: Any) -> list[type]:
    """The classes of a union, looking through Annotated; empty for anything else."""
    if get_origin(annotation) is typing.Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) not in (Union, types.UnionType):
        return []
    return [member for member in get_args(annotation) if isinstance(member, type) and member is not types.NoneType]


# --- encoding -------------------------------------------------------------------------------------

# A payload whose fields were set to what its type does not allow. To ask pydantic to raise that as an error costs most
# of a microsecond a call, so its warning, where it comes from this module, becomes one.
warnings.filterwarnings("error", "Pydantic serializer warnings", UserWarning, re.escape(__name__) + r"\Z")


class Encoder:
    """Payloads of one producer to bytes. With a type every payload is validated before it leaves."""

    __slots__ = ("_dump", "_names", "_title", "_type", "_validate")

    def __init__(self, annotation: Any = None) -> None:
        self._type = annotation
        self._title = getattr(annotation, "__name__", str(annotation))
        self._validate: Callable[[Any], Any] | None = None
        self._dump: Callable[[Any], bytes] = _dump_anything
        if annotation is not None and annotation is not bytes:
            adapter = adapter_for(annotation, f"producer of {self._title}")
            # By alias and without computed fields, so that what is written validates again.
            dump = partial(adapter.serializer.to_json, by_alias=True, round_trip=True)
            self._validate, self._dump = adapter.validator.validate_python, dump
        self._names: dict[type, dict[str, str]] = {}

    def encode(self, data: Any) -> tuple[bytes | None, dict[str, str]]:
        """The body, and the attributes that describe it (shared: copy before adding to them)."""
        if self._validate is not None:
            try:
                data = self._validate(data)
            except ValidationError as error:
                raise EncodeError(
                    f"a payload of type {type(data).__name__} does not fit the producer's type {self._title}: "
                    f"{_problems(error)}"
                ) from error
        elif self._type is bytes and not isinstance(data, bytes):
            raise EncodeError(f"the producer sends bytes, not {type(data).__name__}")
        described = self._names.get(type(data))
        if described is None:
            if data is None:
                return None, _NOTHING
            if isinstance(data, (bytes, bytearray, memoryview)):
                return bytes(data), _BYTES
            described = self._names[type(data)] = _describe(type(data))
        try:
            return self._dump(data), described
        except (PydanticSerializationError, ValueError, UserWarning) as error:
            reason = _VALUE.sub("", str(error))  # it may be secret and end in logs
            raise EncodeError(f"a payload of type {type(data).__name__} cannot be written as JSON: {reason}") from error


_VALUE = re.compile(r"input_value=.*?, (?=input_type=)", re.DOTALL)
_NOTHING: dict[str, str] = {}
_BYTES = {names.TYPE: "bytes", names.CONTENT_TYPE: names.BYTES}
_dump_anything = partial(to_json, by_alias=True, round_trip=True)


def _describe(cls: type) -> dict[str, str]:
    described = {names.TYPE: message_type(cls), names.CONTENT_TYPE: names.JSON}
    version = message_version(cls)
    if version is not None:
        described[names.VERSION] = version
    return described

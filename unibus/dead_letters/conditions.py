"""Which dead letters are meant: `error=ConnectionError`, `age>2h`, `text~timeout`.

field, operator, value. `=` and `!=` take alternatives with `|` between them; `~` and `!~` look for a part of the
text, whatever its case. Ages are numbers with s, m, h, d or w; without a unit they are seconds.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from unibus.dead_letters.letter import Letter
from unibus.errors import ConfigurationError

Condition: TypeAlias = Callable[[Letter], bool]
Where: TypeAlias = str | Condition | Sequence[str | Condition] | None
"""One condition or several, which must all hold; None is every letter."""

_CONDITION = re.compile(r"\s*(?P<field>[a-z]+)\s*(?P<operator>!=|!~|<=|>=|=|~|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def _all_text(letter: Letter) -> str:
    """Whatever somebody may remember of it."""
    record, body = letter.record, letter.body
    said = [] if record is None else [record.reason, record.message, record.stack]
    return "\n".join([*said, *letter.delivery.headers.values(), (body or b"").decode(errors="replace")])


_TEXTS: Mapping[str, Callable[[Letter], str]] = {
    "error": lambda letter: letter.error,
    "handler": lambda letter: letter.record.handler if letter.record is not None else "",
    "host": lambda letter: letter.record.host if letter.record is not None else "",
    "id": lambda letter: letter.id,
    "key": lambda letter: letter.delivery.key or "",
    "reason": lambda letter: letter.reason,
    "source": lambda letter: letter.source,
    "text": _all_text,
    "topic": lambda letter: letter.record.topic if letter.record is not None else "",
    "type": lambda letter: letter.type,
}
_NUMBERS: Mapping[str, Callable[[Letter], float | None]] = {
    "age": lambda letter: letter.age,
    "attempts": lambda letter: letter.attempts,
    "replays": lambda letter: letter.replays,
}
FIELDS = tuple(sorted([*_TEXTS, *_NUMBERS]))


def all_of(where: Where) -> Condition:
    """One condition of all. Raises ConfigurationError that says what can be asked."""
    if where is None:
        return lambda letter: True
    conditions = [_condition(one) for one in ([where] if isinstance(where, str) or callable(where) else where)]
    return lambda letter: all(condition(letter) for condition in conditions)


def any_id(ids: Iterable[str]) -> Condition:
    """Of these letters: by the whole id or the end of it, as tables show it."""
    endings = tuple(ids)
    for ending in endings:
        if len(ending) < SHORTEST_ID:
            raise ConfigurationError(f"id {ending!r} is too short to be sure: give at least {SHORTEST_ID} characters")
    return lambda letter: letter.id.endswith(endings)


SHORTEST_ID = 6


def _condition(one: str | Condition) -> Condition:
    if not isinstance(one, str):
        return one
    found = _CONDITION.fullmatch(one)
    if found is None:
        raise ConfigurationError(
            f"{one!r} is no condition: write a field, one of = != ~ !~ < <= > >=, and a value, "
            "e.g. error=ConnectionError, age>2h or text~timeout"
        )
    field, sign, value = found["field"], found["operator"], found["value"]
    if field in _TEXTS:
        return _of_text(one, field, sign, value)
    if field in _NUMBERS:
        return _of_number(one, field, sign, value)
    raise ConfigurationError(f"{one!r}: there is no {field!r} to ask for. Known: {', '.join(FIELDS)}")


def _of_text(one: str, field: str, sign: str, value: str) -> Condition:
    read = _TEXTS[field]
    if sign in ("~", "!~"):
        part, wanted = value.casefold(), sign == "~"
        return lambda letter: (part in read(letter).casefold()) is wanted
    if sign not in ("=", "!=") or field == "text":
        raise ConfigurationError(f"{one!r}: {field} takes {'~ or !~' if field == 'text' else '= != ~ or !~'}")
    alternatives, equal = frozenset(map(str.strip, value.split("|"))), sign == "="
    if field == "error":  # by the class alone, too
        return lambda letter: (not alternatives.isdisjoint((letter.error, letter.error.rpartition(".")[2]))) is equal
    return lambda letter: (read(letter) in alternatives) is equal


def _of_number(one: str, field: str, sign: str, value: str) -> Condition:
    read, compare = _NUMBERS[field], _COMPARISONS.get(sign)
    if compare is None:
        raise ConfigurationError(f"{one!r}: {field} takes = != < <= > or >=")
    limit = _number(one, value, _UNITS if field == "age" else {"": 1.0})

    def holds(letter: Letter) -> bool:
        figure = read(letter)
        return figure is not None and compare(figure, limit)

    return holds


def _number(one: str, value: str, units: Mapping[str, float]) -> float:
    found = _DURATION.fullmatch(value)
    if found is None or found[2] not in units:
        form = "a number" if len(units) == 1 else "a number with s, m, h, d or w, e.g. 90s or 2h"
        raise ConfigurationError(f"{one!r}: {value!r} is not {form}")
    return float(found[1]) * units[found[2]]

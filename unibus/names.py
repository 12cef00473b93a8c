"""Names of queues, topics and groups, and the patterns that match topics.

A name is words joined by dots. Its length is bounded so that the longest name that a broker sees
for it, `unibus--group--<name>--dlq.fifo` on SQS, fits the 80 characters that SQS allows.
"""

from __future__ import annotations

import re
from functools import lru_cache

from unibus.errors import ConfigurationError

MAX_NAME = 55
RESERVED_PREFIX = "unibus."
DEAD_LETTER_SUFFIX = ".dlq"

_WORD = r"[A-Za-z0-9_]+(?:-[A-Za-z0-9_]+)*"
_NAME = re.compile(rf"{_WORD}(?:\.{_WORD})*")
_PATTERN = re.compile(rf"(?:{_WORD}|\*|#)(?:\.(?:{_WORD}|\*|#))*")


def is_pattern(text: str) -> bool:
    """Whether the text holds a wildcard: `*` is one word, `#` zero or more."""
    return "*" in text or "#" in text


def check_name(name: str, what: str) -> str:
    """The name itself, or ConfigurationError that says what is wrong with it."""
    if is_pattern(name):
        raise ConfigurationError(
            f"{what} {name!r} is a pattern where a name is due; only a subscriber takes `*` and `#`"
        )
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{what} {name!r} is not a name: use words of letters, digits, `_` and single inner `-`, joined by dots"
        )
    _check_length(name, what)
    return name


def check_user_name(name: str, what: str) -> str:
    """Like `check_name`, and refuses what unibus makes itself (`unibus.…`)."""
    check_name(name, what)
    if name.startswith(RESERVED_PREFIX):
        raise ConfigurationError(
            f"{what} {name!r} begins with `unibus.`, which unibus keeps for its own; choose another"
        )
    return name


def check_pattern(pattern: str) -> str:
    """A topic name or a pattern over topic names."""
    if not _PATTERN.fullmatch(pattern):
        raise ConfigurationError(
            f"pattern {pattern!r} is not valid: use words joined by dots, `*` for one word, `#` for zero or more"
        )
    _check_length(pattern, "pattern")
    return pattern


def _check_length(name: str, what: str) -> None:
    # A dot counts as two: brokers without dots in names spell it `--`.
    length = len(name) + name.count(".")
    if length > MAX_NAME:
        raise ConfigurationError(
            f"{what} {name!r} is {length} characters long (a dot counts as two); at most {MAX_NAME} fit every broker"
        )


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Each word is written with a dot in front, so that `#` is just any number of them."""
    parts = []
    for word in pattern.split("."):
        if word == "#":
            parts.append(r"(?:\.[^.]+)*")
        elif word == "*":
            parts.append(r"\.[^.]+")
        else:
            parts.append(r"\." + re.escape(word))
    return re.compile("".join(parts))


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic falls under a pattern. What unibus makes itself and dead letters never do."""
    if topic.startswith(RESERVED_PREFIX) or topic.endswith(DEAD_LETTER_SUFFIX):
        return False
    if pattern == topic:
        return True
    return _compiled(pattern).fullmatch("." + topic) is not None

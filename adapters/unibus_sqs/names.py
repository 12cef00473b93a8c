"""Names as SQS and SNS take them: no dots, so `.` is `--`; what is ordered ends in `.fifo`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from unibus.driver import Queue, Source, TopicSubscription
from unibus.errors import ConfigurationError, UnsupportedCapability
from unibus_sqs.limits import MAX_FILTER_VALUES, MAX_TAG, QUEUE_NAME

TOPIC = "unibus"
"""All topics of a bus go through one SNS topic, and a second one that is ordered."""
FIFO = ".fifo"
_PATTERNS = "patterns: "


def queue_name(source: Source) -> str:
    """Raises ConfigurationError for a name that SQS would refuse, UnsupportedCapability for one without a queue."""
    if isinstance(source, TopicSubscription) and source.group is None:
        raise UnsupportedCapability(f"{source} has no group; on SQS every subscriber needs one")
    if isinstance(source, Queue) and source.physical is not None:
        _check(source, source.physical)
        return source.physical
    return spelled(source.name) + (FIFO if source.ordering == "key" else "")


def _check(queue: Queue, name: str) -> None:
    if not QUEUE_NAME.fullmatch(name):
        raise ConfigurationError(
            f"queue {queue.name!r} has physical={name!r}, which SQS does not take: "
            f"letters, digits, `-` and `_`, at most 80 of them, `.fifo` at the end if ordered (this has {len(name)})"
        )
    if name.endswith(FIFO) != (queue.ordering == "key"):
        raise ConfigurationError(
            f"queue {queue.name!r} has ordering={queue.ordering!r} and physical={name!r}: "
            "exactly those queues of SQS are ordered by key whose name ends in `.fifo`"
        )


def other_name(source: Source) -> str:
    """The same, had it been declared with the other ordering."""
    name = queue_name(source)
    return name.removesuffix(FIFO) if name.endswith(FIFO) else name + FIFO


def spelled(name: str) -> str:
    return name.replace(".", "--")


def filter_of(patterns: Sequence[str]) -> list[object]:
    """A filter on the topic that lets pass all that matches, and sometimes more: the exact filter is ours."""
    everything: list[object] = [{"exists": True}]
    rules: list[object] = []
    for pattern in sorted(patterns):  # SNS takes another order for another filter
        words = pattern.split(".")
        wild = next((place for place, word in enumerate(words) if word in ("*", "#")), None)
        if wild is None:
            rules.append(pattern)
            continue
        if wild == 0:
            return everything
        head = ".".join(words[:wild])
        rules.append({"prefix": head + "."})
        if words[wild] == "#":
            rules.append(head)
    return rules if len(rules) <= MAX_FILTER_VALUES else everything


def as_rule(patterns: Sequence[str]) -> str:
    """The patterns themselves, among the rules of a filter: no topic has such a name."""
    return _PATTERNS + " ".join(sorted(patterns))


def patterns_of(rules: Sequence[object]) -> tuple[str, ...]:
    """What `as_rule` has written; of a filter without it, which somebody else has made, nothing."""
    for rule in rules:
        if isinstance(rule, str) and rule.startswith(_PATTERNS):
            return tuple(rule.removeprefix(_PATTERNS).split(" "))
    return ()


def as_tag(patterns: Sequence[str]) -> str:
    """Patterns as the value of a tag, which has neither `*` nor `#`; their digest where they are too long for one."""
    text = " ".join(sorted(patterns)).replace("*", "@one").replace("#", "@any")
    return text if len(text) <= MAX_TAG else hashlib.sha256(text.encode()).hexdigest()

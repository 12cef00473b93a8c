"""Names as SQS and SNS take them: no dots, so `.` is `--`; what is ordered ends in `.fifo`."""

from __future__ import annotations

from collections.abc import Sequence

from unibus.driver import Queue, Source

TOPIC = "unibus"
"""All topics of a bus go through one SNS topic, and a second one that is ordered."""
FIFO = ".fifo"


def queue_name(source: Source) -> str:
    if isinstance(source, Queue) and source.physical:
        return source.physical
    return spelled(source.name) + (FIFO if source.ordering == "key" else "")


def other_name(source: Source) -> str:
    """The same, had it been declared with the other ordering."""
    name = queue_name(source)
    return name.removesuffix(FIFO) if name.endswith(FIFO) else name + FIFO


def spelled(name: str) -> str:
    return name.replace(".", "--")


def filter_of(patterns: Sequence[str]) -> list[object]:
    """A filter on the topic that lets pass all that matches, and sometimes more: the exact filter is ours."""
    rules: list[object] = []
    for pattern in patterns:
        words = pattern.split(".")
        wild = next((place for place, word in enumerate(words) if word in ("*", "#")), None)
        if wild is None:
            rules.append(pattern)
            continue
        if wild == 0:
            return [{"exists": True}]
        head = ".".join(words[:wild])
        rules.append({"prefix": head + "."})
        if words[wild] == "#":
            rules.append(head)
    return rules


def as_tag(patterns: Sequence[str]) -> str:
    """Patterns as the value of a tag, which has neither `*` nor `#`."""
    return " ".join(sorted(patterns)).replace("*", "@one").replace("#", "@any")

"""Names of topics and groups, and the patterns of a subscription as one expression over topics."""

from __future__ import annotations

import re

from unibus.driver import Address, Source, TopicSubscription


def topic_of(address: Address) -> str:
    """A group has a topic of its own, for what is sent to it alone."""
    return getattr(address, "physical", None) or address.name


def group_of(source: Source) -> str:
    return source.name if isinstance(source, TopicSubscription) else f"unibus.queue.{topic_of(source)}"


def is_named(pattern: str) -> bool:
    return "*" not in pattern and "#" not in pattern


def topics_of(source: Source) -> str:
    """With the group's own topic."""
    if not isinstance(source, TopicSubscription):
        return f"^{re.escape(topic_of(source))}$"
    alternatives = [] if source.group is None else [re.escape(source.name)]
    alternatives += [rf"(?!unibus\.)(?!.*\.dlq$){_expression(one.split('.'))}" for one in source.patterns]
    return f"^(?:{'|'.join(alternatives)})$"


def _expression(words: list[str]) -> str:
    """Of one pattern. Each word but the first is written with its dot."""
    if words == ["#"]:
        return r"[^.]+(?:\.[^.]+)*"
    if words[0] == "#":
        return r"(?:[^.]+\.)*" + _expression(words[1:])
    spelled = [r"(?:\.[^.]+)*" if word == "#" else r"\.[^.]+" if word == "*" else r"\." + word for word in words]
    return "".join(spelled).removeprefix(r"\.")


def is_ephemeral(source: Source) -> bool:
    return isinstance(source, TopicSubscription) and source.group is None

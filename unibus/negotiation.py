"""What handlers and producers ask, against what the broker can do: said at start-up, before anything is declared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from unibus.driver import Capabilities, Guarantee, Queue, Support
from unibus.errors import UnsupportedCapability
from unibus.names import is_pattern
from unibus.plan import Plan
from unibus.verdicts import EPHEMERAL_WAIT, SHORT_WAIT

LONGEST_PARKING = 15 * 60.0
"""Seconds for which a failing message may hold back its key, where the broker sets no shorter limit."""

LONGEST_IN_PROCESS = 0.9 * SHORT_WAIT
"""Seconds that a retry waits at most where the broker cannot delay: longer ones go through it."""

Judgement: TypeAlias = tuple[Support, str]


@dataclass(frozen=True, slots=True)
class Requirement:
    """One thing that somebody asks. required: without it the program must not start."""

    subject: str
    asks: str
    judge: Callable[[Capabilities], Judgement]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the broker makes of it: native, emulated or none; the note says how, or what to do."""

    subject: str
    asks: str
    support: Support
    note: str
    required: bool


def judge(requirements: Iterable[Requirement], capabilities: Capabilities) -> list[Verdict]:
    verdicts = []
    for requirement in requirements:
        support, note = requirement.judge(capabilities)
        verdicts.append(Verdict(requirement.subject, requirement.asks, support, note, requirement.required))
    return verdicts


def refuse_unsupported(verdicts: Sequence[Verdict]) -> None:
    """Raises UnsupportedCapability that lists all that cannot be had."""
    missing = [verdict for verdict in verdicts if verdict.support == "none" and verdict.required]
    if missing:
        listed = "; ".join(f"{verdict.subject} asks for {verdict.asks}: {verdict.note}" for verdict in missing)
        raise UnsupportedCapability(f"this broker cannot do what the program asks: {listed}")


def of_bus(durable: bool) -> Iterator[Requirement]:
    if durable:
        yield Requirement("the bus", "durable messages", _durable)


def of_consumer(plan: Plan) -> Iterator[Requirement]:
    """What a handler asks, by its source, its options and its policies."""
    subject = f"{plan.name} ({plan.where.split(' ')[0]})"
    queue = isinstance(plan.source, Queue)
    yield Requirement(subject, plan.guarantee.replace("_", " "), lambda c: _guarantee(c, plan.guarantee, queue))
    if plan.ordered:
        yield Requirement(subject, "order by key", lambda c: _plain(c.queue_ordering if queue else c.topic_ordering))
    if not isinstance(plan.source, Queue):
        if plan.source.group is None:
            yield Requirement(subject, "an ephemeral subscription", lambda c: _plain(c.ephemeral))
        else:
            yield Requirement(subject, "a group", lambda c: _plain(c.groups))
        if any(map(is_pattern, plan.source.patterns)):
            yield Requirement(subject, "patterns", lambda c: _plain(c.patterns))
        if plan.source.start == "earliest":
            yield Requirement(subject, 'start="earliest"', lambda c: _plain(c.start_earliest))
    yield from _of_retry(subject, plan)
    if plan.timeout is not None:
        yield Requirement(subject, f"a timeout of {plan.timeout:g} s", lambda c: _held(c, plan.timeout or 0.0))
    if plan.turn_every:
        asks = f"a rate limit of one in {plan.turn_every:g} s"
        yield Requirement(subject, asks, lambda c: _turns(c, plan.turn_every, plan.prefetch))
    yield Requirement(subject, "a guard against crashes", lambda c: _crash_guard(c, plan.ordered), required=False)


def _of_retry(subject: str, plan: Plan) -> Iterator[Requirement]:
    longest, total = plan.retry.longest_wait(), plan.retry.total_wait()
    if plan.ordered:
        yield Requirement(subject, f"retries in place for {total:g} s", lambda c: _parked(c, total))
    elif not plan.resendable:
        yield Requirement(subject, f"retries after up to {longest:g} s", lambda _: _ephemeral(longest))
    elif longest >= SHORT_WAIT:
        yield Requirement(subject, f"retries after up to {longest:g} s", lambda c: _delay(c, longest))


def longest_wait(plan: Plan, capabilities: Capabilities) -> float:
    """The longest that one retry of the consumer can wait, in seconds."""
    if plan.ordered:
        return _longest_parking(capabilities)
    if not plan.resendable:
        return EPHEMERAL_WAIT
    if capabilities.delay.support == "none":
        return LONGEST_IN_PROCESS
    return float("inf") if capabilities.delay.max is None else capabilities.delay.max


def of_producer(queue: str, delay: float, ordered: bool) -> Iterator[Requirement]:
    subject = f"producer of {queue}"
    if ordered:
        yield Requirement(subject, "order by key", lambda c: _plain(c.queue_ordering))
    if delay > 0:
        yield Requirement(subject, f"delays of up to {delay:g} s", lambda c: _delay(c, delay))


def _plain(support: Support) -> Judgement:
    return support, "" if support != "none" else "not available"


def _guarantee(capabilities: Capabilities, asked: Guarantee, queue: bool) -> Judgement:
    offered = capabilities.queue_guarantee if queue else capabilities.topic_guarantee
    if asked in (offered, "at_most_once"):
        return "native", "" if offered == asked else "the broker does more: at least once"
    return "none", 'it can lose messages; a handler that accepts this says guarantee="at_most_once"'


def _durable(capabilities: Capabilities) -> Judgement:
    if capabilities.confirmed == "memory":
        return "none", "what this broker confirms is gone with its process; let it write to disk, or leave durable out"
    return "native", f"kept on {capabilities.confirmed}"


def _delay(capabilities: Capabilities, seconds: float) -> Judgement:
    delay = capabilities.delay
    if delay.support == "none":
        return "none", f"no delays; keep waits below {SHORT_WAIT:g} s, or switch retry off with attempts=1"
    if delay.max is not None and seconds > delay.max:
        return "none", f"delays end at {delay.max:g} s"
    return delay.support, f"late by up to {delay.precision:g} s" if delay.precision else "to the moment"


def _parked(capabilities: Capabilities, seconds: float) -> Judgement:
    most = _longest_parking(capabilities)
    if seconds > most:
        return (
            "none",
            f"a failing message may hold back its key for {most:g} s in all; use fewer attempts or shorter waits",
        )
    return "native", "the key is parked, others go on"


def _longest_parking(capabilities: Capabilities) -> float:
    return min(capabilities.hold or LONGEST_PARKING, LONGEST_PARKING)


def _ephemeral(seconds: float) -> Judgement:
    if seconds > EPHEMERAL_WAIT:
        return "none", f"an ephemeral subscriber's messages wait in the process, {EPHEMERAL_WAIT:g} s at most"
    return "native", "in the process"


def _held(capabilities: Capabilities, seconds: float) -> Judgement:
    if capabilities.hold is not None and seconds > capabilities.hold:
        return "none", f"the broker lets a message be held {capabilities.hold:g} s at most"
    return "native", ""


def _turns(capabilities: Capabilities, every: float, prefetch: int) -> Judgement:
    """What is fetched last waits for the turns of all others."""
    hold, last = capabilities.hold, every * prefetch
    if hold is None or last <= hold:
        return "native", "in the process"
    note = f"with a prefetch of {prefetch} the last waits {last:g} s, and the broker lets a message be held {hold:g} s"
    return "none", f"{note}; " + (f"use prefetch={int(hold / every)} or less" if every <= hold else "use a higher rate")


def _crash_guard(capabilities: Capabilities, ordered: bool) -> Judgement:
    counted = capabilities.ordered_delivery_count if ordered else capabilities.delivery_count
    if counted == "none":
        return "none", "the broker counts no deliveries: a message that kills its process comes back each time"
    return counted, ""

"""Mutants of delays, topics and negotiation."""

from __future__ import annotations

from typing import Any

from tests.contract.mutants.registry import change, mutant


@mutant("test_no_delay_is_cut_short_and_none_runs_on")
def early_delay() -> None:
    from unibus.memory.queue import MessageQueue

    delay = MessageQueue._delay
    change(MessageQueue, "_delay", lambda self, due, entry: delay(self, due - 0.05, entry))


@mutant("test_a_second_sent_after_an_hour_comes_first")
def long_delay_holds_back_short_ones() -> None:
    from unibus.memory.queue import MessageQueue

    delay = MessageQueue._delay

    def behind(self: MessageQueue, due: float, entry: Any) -> None:
        delay(self, max([due, *(other for other, *_ in self._delayed)]), entry)

    change(MessageQueue, "_delay", behind)


@mutant("test_equal_delays_all_arrive")
def equal_delays_collapse() -> None:
    from unibus.memory.queue import MessageQueue

    delay = MessageQueue._delay

    def collapsing(self: MessageQueue, due: float, entry: Any) -> None:
        if all(other != due for other, *_ in self._delayed):
            delay(self, due, entry)

    change(MessageQueue, "_delay", collapsing)


@mutant("test_without_a_group_each_hears_what_is_published_while_it_is_there", on="TestMemoryLog")
def ephemeral_gets_a_backlog() -> None:
    from unibus.memory.log_group import Group

    read = Group.read
    change(Group, "read", lambda self, log, earliest: read(self, log, True))


@mutant("test_a_group_gets_what_its_pattern_matches")
def hash_needs_a_word() -> None:
    from unibus import address
    from unibus.names import matches

    change(address, "matches", lambda pattern, topic: matches(pattern.replace(".#", ".*.#"), topic))


@mutant("test_what_a_handler_sends_belongs_to_the_conversation")
def correlation_not_inherited() -> None:
    from unibus import envelope

    class Nobody:
        def get(self) -> None: ...

    change(envelope, "current_message", Nobody())


@mutant("test_a_program_starts_exactly_if_the_broker_can_do_what_it_asks", on="TestBareQueue")
def nothing_refused() -> None:
    from unibus import negotiation

    change(negotiation, "refuse_unsupported", lambda verdicts: None)

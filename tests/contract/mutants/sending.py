"""Mutants that send out of order or do not tell what failed."""

from __future__ import annotations

from typing import Any

from tests.contract.mutants.registry import change, mutant


@mutant("test_five_hundred_gathered_sends_with_failing_batches_keep_the_order")
def invert_a_key() -> None:
    from unibus.sender import Sender

    fill = Sender._fill

    def inverting(self: Sender, entries: list[Any], queue: Any, most: int, room: Any) -> Any:
        begun = len(entries)
        left = fill(self, entries, queue, most, room)
        entries[begun:] = reversed(entries[begun:])
        return left

    change(Sender, "_fill", inverting)


@mutant("test_five_hundred_gathered_sends_with_failing_batches_keep_the_order")
def two_batches_of_a_key_in_flight() -> None:
    from unibus.sender import Sender

    take = Sender._take

    def releasing(self: Sender, batch: Any) -> None:
        take(self, batch)
        self._give_back(batch)

    change(Sender, "_take", releasing)


@mutant("test_after_a_failure_the_queued_ones_of_its_key_do_not_leave")
def not_sent_not_raised() -> None:
    from unibus.sender import Sender

    change(Sender, "_fail_followers", lambda self, keys: None)


@mutant("test_a_send_that_the_client_library_cancels_is_an_unknown_outcome or test_five_hundred_gathered_sends")
def errors_of_a_batch_swallowed() -> None:
    from unibus import sender

    def swallowing(self: Any, index: int, error: Exception | None) -> None:
        if not self.future.done():
            self.future.set_result(None)

    change(sender._One, "settle", swallowing)


@mutant("test_headers_that_do_not_travel_everywhere_are_refused")
def headers_unchecked() -> None:
    from unibus import envelope

    change(envelope, "checked_headers", dict)


@mutant("test_a_body_at_the_limit_passes_and_one_above_is_refused", on="TestSmallQueue")
def off_by_one_limit() -> None:
    from unibus.envelope import Envelopes

    limit = Envelopes.limit

    def tighter(self: Envelopes, capabilities: Any) -> None:
        from dataclasses import replace

        limit(self, replace(capabilities, max_body=capabilities.max_body - 1))

    change(Envelopes, "limit", tighter)


@mutant("test_a_key_is_handled_in_order_and_one_at_a_time")
def keys_not_kept_apart() -> None:
    from unibus.keylines import KeyLines

    change(KeyLines, "admit", lambda self, deliveries: list(deliveries))


@mutant("test_a_key_waits_for_its_failing_message")
def failing_key_not_parked() -> None:
    from unibus.verdicts import Verdicts

    def parking(self: Verdicts, delivery: Any, wait: float) -> None:
        consumer = self._consumer
        consumer.waiting.add(delivery, wait)
        if consumer.keys is not None and (following := consumer.keys.done(delivery)) is not None:
            consumer.buffer.put((following,))

    change(Verdicts, "_park", parking)

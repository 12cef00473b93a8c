"""Mutants that settle too early, too late or not at all, or lose at a cancellation or a close."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from tests.contract.mutants.registry import change, mutant


@mutant("test_a_message_is_acked_after_its_handler_and_not_before")
def ack_before_handler() -> None:
    from unibus.consumer import Consumer
    from unibus.driver import Outcome

    admit = Consumer.admit

    def acking(self: Consumer, batch: Sequence[Any]) -> None:
        self.settler.settle(batch, Outcome.ACK)
        admit(self, batch)

    change(Consumer, "admit", acking)


@mutant("test_what_is_given_back_comes_again")
def drop_on_nack() -> None:
    from unibus.memory.queue import MessageQueue

    change(MessageQueue, "give_back", lambda self, holder, entries, delay=0.0: self.store.done(holder, entries))


@mutant("test_what_is_given_back_comes_again", on="TestMemoryLog")
def drop_on_nack_of_a_log() -> None:
    from unibus.memory.cursor import Cursor

    change(Cursor, "give_back", lambda self, offset, due: self.complete(offset))


@mutant("test_a_hole_is_not_passed_over", on="TestOnePartition")
def commit_past_a_hole() -> None:
    from unibus.memory.cursor import Cursor

    def complete(self: Cursor, offset: int) -> None:
        self.in_flight -= 1
        self.committed = max(self.committed, offset + 1)

    change(Cursor, "complete", complete)


@mutant("test_a_dead_letter_is_confirmed_before_the_ack or test_a_delayed_retry_is_confirmed_before_the_ack")
def ack_before_confirm() -> None:
    from unibus.verdicts import Verdicts

    confirmed = Verdicts._confirmed

    async def acking(self: Verdicts, delivery: Any, *more: Any) -> bool:
        self._consumer.settler.ack(delivery)
        return await confirmed(self, delivery, *more)

    change(Verdicts, "_confirmed", acking)


@mutant("test_while_dead_letters_cannot_be_written_nothing_is_acked")
def ack_when_dead_letters_fail() -> None:
    from unibus.verdicts import Verdicts

    def forgetting(self: Verdicts, delivery: Any, verdict: Exception, error: Exception) -> None:
        self._consumer.settler.ack(delivery)
        self._consumer.finished(delivery)

    change(Verdicts, "_failed_to_send", forgetting)


@mutant("test_a_handler_whose_message_is_lost_is_cancelled_and_settles_nothing")
def ack_on_cancelled_error() -> None:
    from unibus import lanes

    failed = lanes._failed

    async def acking(consumer: Any, lane: Any, delivery: Any, message: Any, error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError):
            consumer.settler.ack(delivery)
        await failed(consumer, lane, delivery, message, error)

    change(lanes, "_failed", acking)


@mutant("test_a_handler_whose_message_is_lost_is_cancelled_and_settles_nothing")
def run_on_after_a_loss() -> None:
    from unibus.consumer import Consumer

    change(Consumer, "_lose", lambda self, deliveries: None)


@mutant("test_a_lease_that_ends_is_told_and_what_was_held_is_stale")
def stale_settlement_accepted() -> None:
    from unibus.memory.queue_subscription import QueueSubscription

    change(QueueSubscription, "_is_stale", lambda self, delivery: False)


@mutant("test_a_handler_of_three_leases_keeps_its_message")
def leases_not_renewed() -> None:
    from unibus.leases import Renewal

    async def nothing(self: Renewal) -> None: ...

    change(Renewal, "_renew", nothing)


@mutant("test_no_more_than_the_prefetch_is_handed_out")
def prefetch_ignored() -> None:
    from unibus.memory.subscription import MemorySubscription

    made = MemorySubscription.__init__

    def unbounded(self: MemorySubscription, source: Any, prefetch: int, *more: Any) -> None:
        made(self, source, 10**6, *more)

    change(MemorySubscription, "__init__", unbounded)


@mutant("test_a_receive_cancelled_anywhere_loses_nothing")
def lose_on_cancel() -> None:
    from unibus.memory.subscription import MemorySubscription

    receive = MemorySubscription.receive

    async def careless(self: MemorySubscription, max_messages: int, max_wait: float) -> Any:
        batch = await receive(self, max_messages, max_wait)
        await asyncio.sleep(0)
        return batch

    change(MemorySubscription, "receive", careless)


@mutant("test_thirty_cycles_of_receiving_and_closing_lose_nothing or test_a_drain_under_load")
def ack_what_never_started() -> None:
    from unibus.consumer import Consumer
    from unibus.driver import Outcome

    change(Consumer, "give_back", lambda self, deliveries: self.settler.settle(list(deliveries), Outcome.ACK))


@mutant("test_a_retry_that_waits_survives_a_shutdown_with_its_attempt")
def drop_what_waits_at_shutdown() -> None:
    from unibus.verdicts import Verdicts

    async def dropping(self: Verdicts, due: Iterable[Any]) -> None:
        for delivery in due:
            self._consumer.settler.ack(delivery)

    change(Verdicts, "release_failed", dropping)


@mutant("test_a_handler_that_ends_cancelled_fails_and_the_consumer_lives")
def foreign_cancel_ends_the_lane() -> None:
    from unibus import invocation
    from unibus.consumer import Consumer

    change(invocation, "_foreign_cancel", lambda: None)
    change(Consumer, "_lane_ended", lambda self, lane, task: None)


@mutant("test_closing_after_parallel_sends_loses_none_that_was_confirmed")
def close_without_flush() -> None:
    from unibus.sender import Sender

    async def nothing(self: Sender) -> None: ...

    change(Sender, "flush", nothing)


@mutant("test_what_cannot_be_begun_in_time_goes_to_another", on="TestSmallQueue")
def held_until_it_is_taken_away() -> None:
    from unibus.overdue import Overdue

    change(Overdue, "_late", lambda self: set())


@mutant("test_a_consumer_that_stops_is_followed_in_order")
def given_back_behind_all_others() -> None:
    from unibus.memory.keyed import _Key

    def first(self: _Key, now: float) -> int | None:
        return self.peek()[0] if self.fresh or self.back else None

    change(_Key, "first", first)
    change(_Key, "peek", lambda self: self.fresh[0] if self.fresh else self.back[0][2])
    change(_Key, "pop", lambda self: self.fresh.popleft() if self.fresh else self.back.pop(0)[2])

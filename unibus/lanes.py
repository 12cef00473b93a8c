"""The loops of the lanes: take what is buffered, decode it, run the folded handler, settle."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

from unibus.driver import Delivery
from unibus.lane import Lane, current_lane
from unibus.message import Message, current_message

if TYPE_CHECKING:
    from unibus.consumer import Consumer

LONGEST_TURN = 0.0002
"""Seconds after which a lane whose handlers never suspend lets others run, so that a broker settles and reads
while the next messages are handled. Real time, of which a loop's own clock may know no more than the millisecond:
it is about the loop's turn, not about the clock that tests move."""


async def run_singles(consumer: Consumer, lane: Lane) -> None:  # noqa: C901, PLR0912 - a call less per message
    """One message after another. This is the path of nearly every message: keep it short."""
    current_lane.set(lane)
    handler, decode, verdicts, settler = (
        consumer.folded.single, consumer.plan.decode, consumer.verdicts, consumer.settler,
    )  # fmt: skip
    assert handler is not None
    acks, attempt_of, set_current = settler.acks, verdicts.attempt_of, current_message.set
    items, keys, rounds = consumer.buffer.items, consumer.keys, consumer.rounds
    turn, turn_ends = rounds.watch(), perf_counter() + LONGEST_TURN
    while not consumer.stopping:
        if not items:
            await consumer.buffer.wait()
            turn, turn_ends = rounds.watch(), perf_counter() + LONGEST_TURN
            continue
        delivery = items.popleft()
        lane.held = (delivery,)
        message: Message[Any] | None = None
        try:
            attempt = attempt_of(delivery)
            message = Message(decode(delivery), delivery, attempt)
            set_current(message)
            await handler(message)
        except (Exception, asyncio.CancelledError) as error:
            await _failed(consumer, lane, delivery, message, error)
        else:
            if lane.reason is None:
                if message.settle_after is not None:
                    settler.ack_handled(message)
                else:
                    acks.append(delivery)
                    if not settler.scheduled:
                        settler.schedule()
            if verdicts.troubles:
                verdicts.forget(delivery)
            if keys is not None and (following := keys.done(delivery)) is not None:
                items.append(following)  # this very lane takes it: nobody need be woken
        lane.held = ()
        if lane.reason is not None or lane.cancelled_by_others:
            if lane.reason != "lost":
                return
            lane.forget_cancel()
        if perf_counter() > turn_ends:
            if turn == rounds.number:  # no handler has suspended since
                await consumer.buffer.pause()
            turn, turn_ends = rounds.watch(), perf_counter() + LONGEST_TURN


async def _failed(
    consumer: Consumer, lane: Lane, delivery: Delivery, message: Message[Any] | None, error: BaseException
) -> None:
    """Let the verdict be carried out. Being cancelled meanwhile leaves the delivery unsettled."""
    try:
        if lane.reason is None:
            await consumer.verdicts.carry_out(delivery, message, error)
    except asyncio.CancelledError:
        if lane.reason is None:
            lane.cancelled_by_others = True
    if lane.reason == "lost":
        consumer.finished(delivery)


async def run_batches(consumer: Consumer, lane: Lane) -> None:
    """One batch after another: what is buffered, and what comes within `max_wait` of the first."""
    current_lane.set(lane)
    while not consumer.stopping:
        if not consumer.buffer.items:
            await consumer.buffer.wait()
            continue
        deliveries: list[Delivery] = []
        lane.held = deliveries
        await _collect(consumer, deliveries)
        await _handle_batch(consumer, lane, deliveries)
        lane.held = ()
        if lane.reason is not None or lane.cancelled_by_others:
            if lane.reason != "lost":
                return
            lane.forget_cancel()
        await asyncio.sleep(0)


async def _collect(consumer: Consumer, deliveries: list[Delivery]) -> None:
    most, clock = consumer.plan.max_batch, consumer.clock
    until = clock.monotonic() + consumer.plan.max_wait
    while True:
        while consumer.buffer.items and len(deliveries) < most:
            deliveries.append(consumer.buffer.items.popleft())
        left = until - clock.monotonic()
        if len(deliveries) >= most or left <= 0 or consumer.stopping or consumer.suspects.single_only:
            return
        await consumer.buffer.wait(left)


async def _handle_batch(consumer: Consumer, lane: Lane, deliveries: list[Delivery]) -> None:
    handler, verdicts = consumer.folded.batch, consumer.verdicts
    assert handler is not None
    messages: list[Message[Any]] = []
    failures: list[tuple[Delivery, Message[Any] | None, BaseException]] = []
    for delivery in deliveries:
        try:
            attempt = verdicts.attempt_of(delivery)
            messages.append(Message(consumer.plan.decode(delivery), delivery, attempt))
        except Exception as error:
            failures.append((delivery, None, error))
    current_message.set(None)
    failed: BaseException | None = None
    try:
        if messages:
            await handler(messages)
    except (Exception, asyncio.CancelledError) as error:
        failed = error
    if lane.reason is not None:
        if lane.reason == "lost":  # those that were not are still ours: they go back, with no attempt spent
            consumer.let_go(deliveries)
        return
    for message in messages:
        error_of_one = message.mark or failed
        if error_of_one is not None:
            failures.append((message.delivery, message, error_of_one))
        else:
            consumer.settler.ack_handled(message)
            consumer.finished(message.delivery)
    if failures:
        await asyncio.gather(*[_failed(consumer, lane, *failure) for failure in failures])

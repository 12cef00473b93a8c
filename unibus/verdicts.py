"""What becomes of a message that was not handled: the only place that re-sends, dead-letters and parks.

Middlewares decide, this acts: send, wait for the confirm, then ack. A crash in between duplicates,
the other order would lose.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unibus import attributes as names
from unibus import dead_letters
from unibus.driver import Delivery, Outbound, Outcome, Queue
from unibus.envelope import size_of
from unibus.errors import DriverError, HandlerCancelled, SendError
from unibus.ids import rfc3339
from unibus.message import Message
from unibus.outcome import Drop, Postponed, Reject, Retry

if TYPE_CHECKING:
    from unibus.consumer import Consumer
    from unibus.turns import Turn

logger = logging.getLogger("unibus.consumer")

SHORT_WAIT = 1.0
"""Retries sooner than this wait in the process: a round trip through the broker would take about as long."""
EPHEMERAL_WAIT = 60.0
"""The longest that a message of an ephemeral subscriber waits; it cannot be re-sent to that one alone."""
PAUSE_AFTER = 5
"""Failed re-sends in a row after which no more is fetched for a while."""
GIVE_BACK_WAIT = 60.0
"""Seconds before an exhausted message of a dead-letter queue is given back."""


class Trouble:
    """What this process remembers of a delivery that was not settled at its first run."""

    __slots__ = ("failures", "pending", "postponed", "send_failures", "turn")

    def __init__(self, pending: Exception | None = None) -> None:
        self.failures = 0
        self.pending = pending
        self.postponed = 0
        self.send_failures = 0
        self.turn: Turn | None = None


def _sent_to_us_alone(delivery: Delivery) -> bool:
    attributes = delivery.attributes
    return names.ATTEMPT in attributes or names.ALONE in attributes or names.REPLAYS in attributes


class Suspected(Exception):
    """To be re-sent, marked to be handled alone."""


class Verdicts:
    """Carries out verdicts for one consumer."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.troubles: dict[Delivery, Trouble] = {}
        self.failing_sends = 0
        self._paused_until = 0.0
        self._matched: dict[str, bool] = {}

    # --- before a handler runs ----------------------------------------------------------------------

    def attempt_of(self, delivery: Delivery) -> int:
        """The number of the run that comes, or raises what is still to be carried out from an earlier one."""
        attributes = delivery.attributes
        attempt = names.parse_attempt(attributes) if names.ATTEMPT in attributes else 1
        if self.troubles and (trouble := self.troubles.get(delivery)) is not None:
            if trouble.pending is not None:
                raise trouble.pending
            attempt += trouble.failures
        return attempt

    def without_unmatched(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        """Less what does not fall under the group's patterns. Never a retry or a replay: it is ours whatever its topic.

        Where the broker routes by our patterns exactly, another process of the group has wanted it, or wants it
        now: it goes to the dead letters. Elsewhere it comes in the normal course of things, and is acked.
        """
        source = self._consumer.plan.source
        if isinstance(source, Queue):
            return batch
        matched = self._matched
        unmatched: dict[Delivery, None] = {}
        for delivery in batch:
            fits = matched.get(delivery.address)
            if fits is None:
                if len(matched) > 10_000:
                    matched.clear()
                fits = matched[delivery.address] = source.matches(delivery.address)
            if not (fits or _sent_to_us_alone(delivery)):
                unmatched[delivery] = None
        if not unmatched:
            return batch
        self._consumer.stats.unmatched += len(unmatched)
        if self._consumer.bus.capabilities.patterns == "native" and self._consumer.plan.dead_letters is not None:
            for delivery in unmatched:
                reason = f"{delivery.address!r} does not match {', '.join(source.patterns)} of this process"
                self.troubles[delivery] = Trouble(Reject(f"Unmatched: {reason}"))
            return batch
        self._consumer.settler.settle(list(unmatched), Outcome.ACK)
        return [delivery for delivery in batch if delivery not in unmatched]

    def paused(self) -> float:
        """Seconds for which nothing should be fetched, since dead letters or re-sends keep failing."""
        return self._paused_until - self._consumer.clock.monotonic()

    # --- after it failed ----------------------------------------------------------------------------

    async def carry_out(self, delivery: Delivery, message: Message[Any] | None, error: BaseException) -> None:
        """Returns once the delivery is settled, parked, or waits for another try at this very verdict."""
        attempt = message.attempt if message is not None else self._attempt_so_far(delivery)
        if isinstance(error, asyncio.CancelledError):
            error = HandlerCancelled("a middleware ended with a CancelledError that unibus did not cause")
        match error:
            case Postponed():
                self._postpone(delivery, error)
            case Drop():
                self._drop(delivery)
            case Suspected():
                await self.resend_alone(delivery)
            case Retry():
                await self._retry(delivery, attempt, error)
            case Reject():
                await self._reject(delivery, attempt, error)
            case _:
                await self._reject(delivery, attempt, Reject(f"{type(error).__name__}: {error}", error))

    def _attempt_so_far(self, delivery: Delivery) -> int:
        trouble = self.troubles.get(delivery)
        return names.parse_attempt(delivery.attributes) + (trouble.failures if trouble is not None else 0)

    def begun(self, delivery: Delivery) -> bool:
        """Whether its handler has failed here, or its end could not be sent yet."""
        trouble = self.troubles.get(delivery)
        return trouble is not None and (trouble.failures > 0 or trouble.pending is not None)

    def is_pending(self, delivery: Delivery) -> bool:
        """Whether its end is decided, and could not be sent yet."""
        trouble = self.troubles.get(delivery)
        return trouble is not None and trouble.pending is not None

    def has_turn(self, delivery: Delivery) -> bool:
        """Whether it waits for its turn, and nothing is amiss."""
        trouble = self.troubles.get(delivery)
        return trouble is not None and trouble.turn is not None and trouble.turn.on_time

    def forget(self, delivery: Delivery) -> None:
        trouble = self.troubles.pop(delivery, None)
        if trouble is not None and trouble.turn is not None:
            trouble.turn.given_up()

    def forget_all(self) -> None:
        """The consumer has stopped."""
        for delivery in list(self.troubles):
            self.forget(delivery)

    def _postpone(self, delivery: Delivery, postponed: Postponed) -> None:
        trouble = self.troubles.setdefault(delivery, Trouble())
        trouble.turn = postponed.turn
        until = postponed.until if postponed.turn is None else postponed.turn.called
        if until is not None:
            until.add_done_callback(lambda _: self._consumer.waiting.release(delivery))
            self._park(delivery, postponed.after)
            return
        wait = min(postponed.after, float(2 ** min(trouble.postponed, 10)))
        trouble.postponed += 1
        self._park(delivery, wait)

    def _park(self, delivery: Delivery, wait: float) -> None:
        """Into the waiting heap, unless it was lost meanwhile."""
        if delivery in self._consumer.held:
            self._consumer.waiting.add(delivery, wait)
        else:
            self._consumer.finished(delivery)

    def _drop(self, delivery: Delivery) -> None:
        self._consumer.stats.dropped += 1
        self._consumer.settler.settle([delivery], Outcome.REJECT)
        self._consumer.finished(delivery)

    # --- retry --------------------------------------------------------------------------------------

    async def _retry(self, delivery: Delivery, attempt: int, retry: Retry) -> None:
        wait = retry.after if retry.after is not None else SHORT_WAIT
        problem = self._cannot_wait(wait)
        if problem:
            await self._reject(delivery, attempt, Reject(problem, retry.cause))
            return
        # On the delivery itself, so that `max_elapsed` counts from it whether the message waits here or is re-sent.
        delivery.attributes = {**delivery.attributes, names.FIRST_FAILURE: self._first_failure(delivery)}
        if self._waits_here(wait):
            self.troubles.setdefault(delivery, Trouble()).failures += 1
            self._consumer.stats.retried += 1
            self._park(delivery, wait)
            return
        attributes = dict(delivery.attributes)
        attributes[names.ATTEMPT] = str(attempt + 1)
        if await self._confirmed(delivery, retry, self._again(delivery, attributes, wait)):
            self._consumer.stats.retried += 1

    def _first_failure(self, delivery: Delivery) -> str:
        """When it failed first: as it was recorded, if that can be, else now."""
        now = self._consumer.clock.now()
        recorded = names.parse_first_failure(delivery.attributes, now) is not None
        return delivery.attributes[names.FIRST_FAILURE] if recorded else rfc3339(now)

    def _waits_here(self, wait: float) -> bool:
        plan = self._consumer.plan
        return wait < SHORT_WAIT or plan.ordered or not plan.resendable

    def _cannot_wait(self, wait: float) -> str | None:
        """Why a wait that a handler asked for cannot be had; policies were checked at start."""
        plan, capabilities = self._consumer.plan, self._consumer.bus.capabilities
        asked = f"a retry after {wait:g} s was asked for"
        if not plan.resendable and wait > EPHEMERAL_WAIT:
            return f"{asked}; an ephemeral subscriber's waits {EPHEMERAL_WAIT:g} s at most"
        if plan.ordered and capabilities.hold is not None and wait > capabilities.hold:
            return f"{asked}; the broker lets a message be held {capabilities.hold:g} s at most"
        if self._waits_here(wait):
            return None
        if capabilities.delay.support == "none":
            return f"{asked}; the broker cannot delay messages"
        if capabilities.delay.max is not None and wait > capabilities.delay.max:
            return f"{asked}; the broker delays {capabilities.delay.max:g} s at most"
        return None

    def _again(self, delivery: Delivery, attributes: dict[str, str], wait: float) -> Outbound:
        topic = None if isinstance(self._consumer.plan.source, Queue) else delivery.address
        return Outbound(
            delivery.body, attributes, delivery.headers, delivery.key, delivery.message_id, wait, topic=topic
        )

    async def resend_alone(self, delivery: Delivery) -> None:
        """To the end of its own queue, marked to be handled with nothing beside it; its count starts again."""
        attributes = dict(delivery.attributes)
        attributes[names.ALONE] = "1"
        if await self._confirmed(delivery, Suspected(), self._again(delivery, attributes, 0.0)):
            self._consumer.stats.suspects += 1

    # --- dead letter --------------------------------------------------------------------------------

    async def _reject(self, delivery: Delivery, attempt: int, reject: Reject) -> None:
        plan = self._consumer.plan
        destination = plan.dead_letters
        if destination is None:
            if isinstance(plan.source, Queue) and plan.source.is_dead_letters:
                self._exhausted_dead_letter(delivery, reject)
            else:
                self._drop(delivery)
            return
        record = self._record(delivery, attempt, reject)
        attributes = {
            name: value
            for name, value in delivery.attributes.items()
            if name not in (names.ATTEMPT, names.FIRST_FAILURE, names.ALONE) and not dead_letters.is_record(name)
        }
        if await self._confirmed(delivery, reject, self._fitting(delivery, attributes, record), destination):
            self._consumer.stats.dead_lettered += 1
            logger.warning(
                "message %s of %s is a dead letter in %s: %s",
                delivery.message_id,
                plan.name,
                destination,
                record.reason,
            )

    def _record(self, delivery: Delivery, attempt: int, reject: Reject) -> dead_letters.DeadLetter:
        plan = self._consumer.plan
        is_queue = isinstance(plan.source, Queue)
        return replace(
            dead_letters.describe(reject.cause or reject, reject.reason),
            attempts=attempt,
            first_failure=self._first_failure(delivery),
            last_failure=rfc3339(self._consumer.clock.now()),
            source=plan.source.name,
            topic="" if is_queue else delivery.address,
            group="" if is_queue else plan.name,
            handler=plan.where.split(" ")[0],
            trace_id=delivery.attributes.get(names.TRACE_PARENT, "")[3:35],
        )

    def _fitting(self, delivery: Delivery, attributes: dict[str, str], record: dead_letters.DeadLetter) -> Outbound:
        """Where metadata counts towards the broker's limit the record is cut, never the body."""
        topic = None if isinstance(self._consumer.plan.source, Queue) else delivery.address
        outbound = Outbound(
            delivery.body, {**attributes, **record.to_attributes()}, delivery.headers, delivery.key,
            delivery.message_id, topic=topic,
        )  # fmt: skip
        capabilities = self._consumer.bus.capabilities
        if capabilities.max_body is not None and capabilities.body_limit_counts_metadata:
            excess = size_of(outbound, with_metadata=True) - capabilities.max_body
            if excess > 0:
                outbound.attributes = {**attributes, **record.cut(excess).to_attributes()}
        return outbound

    def _exhausted_dead_letter(self, delivery: Delivery, reject: Reject) -> None:
        """A consumer of dead letters has nowhere to put its own: back they go, not at once, and health says so."""
        trouble = self.troubles.setdefault(delivery, Trouble())
        if trouble.pending is None:
            self.failing_sends += 1
            logger.error(
                "message %s of the dead letters %s failed: %s", delivery.message_id, self._consumer.plan.name, reject
            )
            trouble.pending = reject
            self._park(delivery, GIVE_BACK_WAIT)
            return
        self._consumer.give_back([delivery])
        self._consumer.finished(delivery)

    # --- sending ------------------------------------------------------------------------------------

    async def _confirmed(
        self, delivery: Delivery, verdict: Exception, outbound: Outbound, destination: Queue | None = None
    ) -> bool:
        """Send; ack only once the broker has confirmed. A failure leaves the delivery unsettled, for later."""
        consumer = self._consumer
        try:
            await consumer.bus.sender_for(destination or consumer.plan.source).send(outbound)
        except Exception as error:  # whatever it is: unsettled, and later once more
            self._failed_to_send(delivery, verdict, error)
            return False
        if self.failing_sends:
            self.failing_sends = 0
            self._paused_until = 0.0
        if delivery in consumer.held:  # else it was lost meanwhile, and comes twice
            consumer.settler.ack(delivery)
        consumer.finished(delivery)
        return True

    def _failed_to_send(self, delivery: Delivery, verdict: Exception, error: Exception) -> None:
        trouble = self.troubles.setdefault(delivery, Trouble())
        trouble.pending = verdict
        wait = min(2.0**trouble.send_failures, 60.0)
        trouble.send_failures += 1
        self.failing_sends += 1
        self._consumer.stats.send_failures += 1
        if self.failing_sends >= PAUSE_AFTER:
            self._paused_until = self._consumer.clock.monotonic() + wait
        logger.error(
            "message %s of %s could not be re-sent or dead-lettered, again in %.0f s: %s",
            delivery.message_id, self._consumer.plan.name, wait, error,
        )  # fmt: skip
        self._park(delivery, wait)

    async def release_failed(self, due: Mapping[Delivery, float]) -> None:
        """At shutdown: what has failed and is not at work again is re-sent with what remains of its delay; the rest
        goes back. due: when each of those that waited would have gone on.

        In order on an ordered address, and to nobody else on an ephemeral one, so those are given back.
        """
        plan, held, running = self._consumer.plan, self._consumer.held, self._consumer.running()
        if plan.ordered or not plan.resendable:
            return
        failed = [
            (delivery, trouble.failures)
            for delivery, trouble in self.troubles.items()
            if trouble.failures and trouble.pending is None and delivery in held and delivery not in running
        ]
        await asyncio.gather(*[self._release(delivery, failures, due.get(delivery)) for delivery, failures in failed])

    async def _release(self, delivery: Delivery, failures: int, due: float | None) -> None:
        plan, wait = self._consumer.plan, 0.0
        attributes = dict(delivery.attributes)
        attributes[names.ATTEMPT] = str(names.parse_attempt(attributes) + failures)
        if due is not None and self._consumer.bus.capabilities.delay.support != "none":
            wait = max(0.0, due - self._consumer.clock.monotonic())
        try:
            await self._consumer.bus.sender_for(plan.source).send(self._again(delivery, attributes, wait))
        except (SendError, DriverError) as error:
            logger.warning("message %s goes back without its failed attempts: %s", delivery.message_id, error)
            return
        self._consumer.settler.ack(delivery)

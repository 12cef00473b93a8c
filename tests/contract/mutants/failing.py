"""Mutants of retries, dead letters and suspects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.contract.mutants.registry import change, mutant


@mutant("test_over_retry_the_effect_happens_once_and_never_zero_times")
def retry_resends_and_returns() -> None:
    from unibus import attributes as names
    from unibus.consumer import Consumer
    from unibus.middleware.retry import RetryOption
    from unibus.outcome import Retry

    owner: dict[Any, Consumer] = {}
    admit, single = Consumer.admit, RetryOption.single

    def noting(self: Consumer, batch: Sequence[Any]) -> None:
        owner.update(dict.fromkeys(batch, self))
        admit(self, batch)

    def resending(self: RetryOption, around: Any) -> Any:
        wrap = single(self, around)

        def wrapped(inner: Any) -> Any:
            handler = wrap(inner)

            async def retry(message: Any) -> object:
                try:
                    return await handler(message)
                except Retry as decision:
                    consumer, attributes = owner[message.delivery], dict(message.delivery.attributes)
                    attributes[names.ATTEMPT] = str(message.attempt + 1)
                    again = consumer.verdicts._again(message.delivery, attributes, decision.after or 0.0)
                    await consumer.bus.sender_for(consumer.plan.source).send(again)
                    return None

            return retry

        return wrapped

    change(Consumer, "admit", noting)
    change(RetryOption, "single", resending)


@mutant("test_a_retry_reaches_its_group_alone")
def retry_to_all_groups() -> None:
    from unibus.driver import Topic, TopicSubscription
    from unibus.session import Session

    sender_for = Session.sender_for

    def publishing(self: Session, address: Any) -> Any:
        return self._topic_sender(Topic("any")) if isinstance(address, TopicSubscription) else sender_for(self, address)

    change(Session, "sender_for", publishing)

    from unibus.verdicts import Verdicts

    again = Verdicts._again

    def at_once(self: Verdicts, delivery: Any, attributes: Any, wait: float) -> Any:
        return again(self, delivery, attributes, 0.0)

    change(Verdicts, "_again", at_once)


def _again_with(alter: Callable[[Any], None]) -> None:
    from unibus.verdicts import Verdicts

    again = Verdicts._again

    def changed(self: Verdicts, delivery: Any, attributes: Any, wait: float) -> Any:
        outbound = again(self, delivery, attributes, wait)
        alter(outbound)
        return outbound

    change(Verdicts, "_again", changed)


@mutant("test_a_delayed_retry_keeps_its_topic_and_is_handled")
def retry_forgets_its_topic() -> None:
    _again_with(lambda outbound: setattr(outbound, "topic", None))


@mutant("test_a_delayed_retry_changes_nothing_but_the_attempt")
def retry_loses_headers() -> None:
    _again_with(lambda outbound: setattr(outbound, "headers", {}))


@mutant("test_a_delayed_retry_changes_nothing_but_the_attempt")
def retry_alters_the_body() -> None:
    _again_with(lambda outbound: setattr(outbound, "body", outbound.body.replace(b",", b", ")))


@mutant("test_retries_end_in_a_dead_letter_with_a_complete_record")
def attempts_not_counted() -> None:
    from unibus import attributes as names

    _again_with(lambda outbound: outbound.attributes.pop(names.ATTEMPT))


@mutant("test_retries_end_in_a_dead_letter_with_a_complete_record")
def record_without_the_first_failure() -> None:
    from unibus.dead_letters import DeadLetter

    to_attributes = DeadLetter.to_attributes

    def shorter(self: DeadLetter) -> dict[str, str]:
        return {name: value for name, value in to_attributes(self).items() if not name.endswith("firstfailure")}

    change(DeadLetter, "to_attributes", shorter)


@mutant("test_an_undecodable_payload_is_a_dead_letter_at_once_with_its_bytes")
def dead_letter_as_text() -> None:
    from unibus.verdicts import Verdicts

    fitting = Verdicts._fitting

    def as_text(self: Verdicts, *arguments: Any) -> Any:
        outbound = fitting(self, *arguments)
        outbound.body = (outbound.body or b"").decode(errors="replace").encode()
        return outbound

    change(Verdicts, "_fitting", as_text)


@mutant("test_whether_it_still_matches_is_judged_by_the_topic_and_never_for_a_retry")
def retry_judged_by_its_topic() -> None:
    from unibus.driver import Outcome, Queue
    from unibus.verdicts import Verdicts

    def judging(self: Verdicts, batch: Sequence[Any]) -> Sequence[Any]:
        source = self._consumer.plan.source
        if isinstance(source, Queue):
            return batch
        unmatched = [delivery for delivery in batch if not source.matches(delivery.address)]
        self._consumer.settler.settle(unmatched, Outcome.ACK)
        return [delivery for delivery in batch if delivery not in unmatched]

    change(Verdicts, "without_unmatched", judging)


@mutant("test_a_marked_message_waits_for_what_runs_and_others_wait_for_it")
def suspect_beside_others() -> None:
    from unibus.suspects import Suspects

    async def beside(self: Suspects, delivery: Any) -> None:
        self._consumer.admit([delivery])

    change(Suspects, "_alone", beside)


@mutant("test_one_crashing_message_among_two_hundred_convicts_no_other or test_a_suspect_is_handled_with")
def suspects_not_set_apart() -> None:
    from unibus.suspects import Suspects

    change(Suspects, "any", lambda self, batch: False)


@mutant("test_one_crashing_message_among_two_hundred_convicts_no_other")
def convicted_by_the_bare_count() -> None:
    from unibus.suspects import SUSPECT_AT, Suspects

    async def convicting(self: Suspects, batch: Sequence[Any]) -> Sequence[Any]:
        for delivery in [delivery for delivery in batch if delivery.deliveries >= SUSPECT_AT]:
            await self._convict(delivery)
        return [delivery for delivery in batch if delivery.deliveries < SUSPECT_AT]

    change(Suspects, "sort", convicting)

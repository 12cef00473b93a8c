"""Mutants of idempotent handling."""

from __future__ import annotations

from typing import Any

from tests.contract.mutants.registry import change, mutant


@mutant("test_over_retry_the_effect_happens_once_and_never_zero_times")
def done_before_success() -> None:
    from unibus.idempotency.claims import Claims

    claim = Claims.claim

    def completing(self: Claims, key: str) -> Any:
        answer = claim(self, key)
        answer.add_done_callback(lambda _: self.complete(key))
        return answer

    change(Claims, "claim", completing)


@mutant("test_a_final_failure_frees_the_key")
def claim_not_released_on_failure() -> None:
    from unibus.idempotency.claims import Claims

    change(Claims, "release", lambda self, key: None)


@mutant("test_duplicates_have_one_effect")
def every_claim_is_new() -> None:
    from unibus.idempotency.memory import MemoryStore
    from unibus.idempotency.store import New

    change(MemoryStore, "_claim", lambda self, key, owner, lease, now: New(1))


@mutant("test_keys_are_kept_apart_by_consumer")
def keys_of_all_consumers_together() -> None:
    from unibus.middleware.idempotent import IdempotentOption

    change(IdempotentOption, "_keys", lambda self, around: lambda message: str(self.key(message)))


@mutant("test_while_the_store_is_down_nothing_is_handled_and_no_attempt_is_spent")
def open_when_the_store_is_down() -> None:
    from unibus.middleware.idempotent import IdempotentOption

    change(IdempotentOption, "_goes_on_without", lambda self, key, error: True)

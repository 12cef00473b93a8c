"""The judge of the fault tests sees what it is for."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.faults.books import Books
from tests.faults.journal import Entry, Journal, Reading
from tests.faults.load import MARK, delay_of, message_id, payload
from tests.faults.processes import WRONG
from tests.faults.run import Fault
from tests.faults.scenarios.topology import reckon_losses

PUBLISHER, CONSUMER = 1, 2


def sent(id: str, at: float = 1.0, kind: str = "confirmed", began: float | None = None) -> Entry:  # noqa: A002
    return Entry(kind, PUBLISHER, at, 0.0, id, began=at - 0.5 if began is None else began)


def run(id: str, at: float = 2.0, *, attempt: int = 1, ends: bool = True) -> list[Entry]:  # noqa: A002
    kinds = ("begun", "effect", "ended") if ends else ("begun",)
    return [Entry(kind, CONSUMER, at + place / 10, 0.0, id, attempt) for place, kind in enumerate(kinds)]


def good() -> list[Entry]:
    return [sent("a"), sent("b"), *run("a"), *run("b")]


def test_a_good_run() -> None:
    books = Books(good())
    assert books.complaints(2, duplicates=0) == []
    assert books.effect_complaints(2, extra=0) == []


def test_a_loss() -> None:
    (complaint,) = Books([*good(), sent("c")]).complaints(3, duplicates=0)
    assert complaint == "1 confirmed messages are lost: c"


def test_a_loss_behind_a_duplicate_of_another() -> None:
    """Equal counts prove nothing."""
    books = Books([*good(), sent("c"), *run("a", 3.0)])
    assert len(books.of("confirmed")) == len(books.of("ended"))
    assert "1 confirmed messages are lost: c" in books.complaints(3, duplicates=1)


def test_what_was_begun_and_not_ended_is_not_handled() -> None:
    assert Books([*good(), sent("c"), *run("c", ends=False)]).lost == {"c"}


def test_what_lies_in_the_dead_letters_is_not_lost_but_told() -> None:
    books = Books([*good(), sent("c")], dead=["c"])
    assert books.complaints(3, duplicates=0) == ["1 messages are dead letters: c"]
    assert books.complaints(3, duplicates=0, dead=["c"]) == []


def test_what_may_be_lost_may_be() -> None:
    assert Books([*good(), sent("c")]).complaints(3, duplicates=0, losses=["c"]) == []


def test_what_lies_where_it_belongs_is_not_lost() -> None:
    assert Books([*good(), sent("c")], elsewhere=["c"]).complaints(3, duplicates=0) == []


def test_what_nobody_sent() -> None:
    (complaint,) = Books([*good(), *run("x")]).complaints(2, duplicates=0)
    assert complaint == "1 messages came that nobody sent: x"


def test_what_was_never_confirmed() -> None:
    (complaint,) = Books([*good(), sent("c", kind="unknown"), *run("c")]).complaints(3, duplicates=0)
    assert complaint == "2 of 3 messages ended confirmed"


def test_too_many_duplicates() -> None:
    books = Books([*good(), *run("a", 3.0), *run("b", 3.0, ends=False)])
    assert books.complaints(2, duplicates=2) == []
    assert books.complaints(2, duplicates=1) == ["2 extra runs of handlers, 1 are allowed"]


def test_a_second_attempt_is_no_duplicate() -> None:
    assert Books([*good(), *run("a", 3.0, attempt=2)]).duplicates == 0


def test_the_payload_of_another() -> None:
    (complaint,) = Books([*good(), Entry("corrupt", CONSUMER, 2.0, 0.0, "a")]).complaints(2, duplicates=0)
    assert complaint == "1 messages came with another's payload: a"


def test_effects() -> None:
    entries = [*good(), *run("a", 3.0)]
    assert Books(entries).effect_complaints(2, extra=1) == []
    assert Books(entries).effect_complaints(2, extra=0) == ["3 effects of 2 messages, 0 more are allowed"]
    without = [entry for entry in entries if (entry.kind, entry.id) != ("effect", "b")]
    assert Books(without).effect_complaints(2, extra=1) == ["1 confirmed messages had no effect: b"]


def test_what_runs_in_a_process() -> None:
    books = Books([*good(), *run("c", 2.0, ends=False)])
    assert books.running(CONSUMER, 2.05) == {"a", "b", "c"}
    assert books.running(CONSUMER, 9.0) == {"c"}
    assert books.running(PUBLISHER, 9.0) == set()


def test_early() -> None:
    entries = [sent("a", at=1.0, began=0.5), *run("a", 2.4)]
    assert Books(entries).early({"a": 1.5}) == []
    assert Books(entries).early({"a": 2.0}) == ["a, attempt 1: 0.100 s early"]
    failed = Entry("failed", CONSUMER, 3.0, 0.0, "a", 1, value=2.0)
    assert Books([*entries, failed, *run("a", 5.1, attempt=2)]).early({}) == []
    assert Books([*entries, failed, *run("a", 4.5, attempt=2)]).early({}) == ["a, attempt 2: 0.500 s early"]


def test_a_copy_whose_outcome_was_unknown_counts_from_its_own_time() -> None:
    entries = [sent("a", at=1.0, kind="unknown", began=0.0), sent("a", at=6.5, began=6.0), *run("a", 2.0)]
    assert Books(entries).early({"a": 2.0}) == []


GONE = Fault(struck=5.0, removed=6.0)


def test_losses_by_a_deletion_are_those_that_lay_there() -> None:
    before = [sent(one, at=4.0) for one in ("a", "b", "c")]
    assert reckon_losses(Books([*before, *run("c")]), GONE, 2) == ({"a", "b", "c"}, [])
    _, complaints = reckon_losses(Books([*before, *run("c")]), GONE, 1)
    assert complaints == ["2 messages are lost, but only 1 lay in the queue"]


def test_what_was_sent_after_a_deletion_may_not_be_lost() -> None:
    books = Books([sent("a", at=4.0), sent("b", at=7.0, began=6.5)])
    losable, _ = reckon_losses(books, GONE, 1)
    assert losable == {"a"}
    assert books.complaints(2, duplicates=0, losses=losable) == ["1 confirmed messages are lost: b"]


def test_what_was_being_sent_while_the_queue_went_does_not_count_as_what_lay_there() -> None:
    books = Books([sent("a", at=4.0), sent("b", at=5.5, began=4.9)])
    assert reckon_losses(books, GONE, 1) == ({"a", "b"}, [])


def test_what_was_in_hand_while_the_queue_went_does_not_count_as_what_lay_there() -> None:
    before = [sent(str(one), at=4.0) for one in range(65)]
    in_hand = [entry for one in range(65) for entry in run(str(one), ends=False)]
    _, complaints = reckon_losses(Books([*before[:64], *in_hand[:64]]), GONE, 1)
    assert complaints == []
    _, complaints = reckon_losses(Books([*before, *in_hand]), GONE, 1)
    assert complaints == ["65 messages are lost that were delivered, of 64 at most in hand"]


def test_a_deletion_that_hit_nothing() -> None:
    _, complaints = reckon_losses(Books(good()), GONE, 0)
    assert complaints == ["nothing lay in the queue when it was deleted: the deletion hit nothing"]


@pytest.mark.parametrize(
    "line",
    [
        "Traceback (most recent call last):",
        "ERROR asyncio: Task exception was never retrieved",
        "ERROR asyncio: Unhandled exception in callback",
        "RuntimeWarning: coroutine 'f' was never awaited",
        "ERROR asyncio: Task was destroyed but it is pending!",
        "ERROR unibus.consumer: a lane of orders ended by itself and is started again",
    ],
)
def test_what_no_process_may_say(line: str) -> None:
    assert WRONG.search(line)


def test_a_journal_is_read_as_it_grows(tmp_path: Path) -> None:
    journal, reading = Journal(tmp_path / "1.journal"), Reading(tmp_path)
    reading.catch_up()
    assert reading.entries == []
    journal.write("begun", "a", attempt=2)
    reading.catch_up()
    (entry,) = reading.entries
    assert (entry.kind, entry.id, entry.attempt, entry.pid) == ("begun", "a", 2, os.getpid())
    with (tmp_path / "1.journal").open("a") as file:
        line = json.dumps(asdict(entry)) + "\n"
        file.write(line[:20])
        file.flush()
        reading.catch_up()
        assert len(reading.entries) == 1, "a line that is being written"
        file.write(line[20:])
    reading.catch_up()
    assert reading.entries == [entry, entry]
    assert reading.by_kind("begun") == [entry, entry]
    assert reading.ids("begun") == {"a"}


def test_payloads_tell_whose_they_are() -> None:
    first, second = message_id("run", 1), message_id("run", 2)
    assert payload(first) != payload(second)
    assert len(payload(first)) == 1024
    assert payload(first).startswith(MARK)


def test_delays_follow_from_seed_and_id() -> None:
    delays = {delay_of(seed, one, "sent", 1.0, 3.0) for seed in (1, 2) for one in "abcdefgh"}
    assert len(delays) > 2
    assert all(1.0 <= delay <= 3.0 for delay in delays)
    assert delay_of(1, "a", "sent", 1.0, 3.0) == delay_of(1, "a", "sent", 1.0, 3.0)

"""The judge of hops sees what it is for."""

from __future__ import annotations

import pytest

from tests.faults.books import Books
from tests.faults.hops import DIED, SOON, Death, Hop, Left, Verdict, allowed, complaints, repeated, unsettled_of
from tests.faults.journal import Entry

FAILING, OTHER = "q-000005", "q-000006"
VICTIM, REST = 1, 2


def hop(verdict: Verdict = "retry") -> Hop:
    return Hop(name="q", message=FAILING, verdict=verdict, group=False, after=SOON)


def entry(kind: str, id: str, at: float = 0.0, *, attempt: int = 1, value: float = 0.0, text: str = "") -> Entry:  # noqa: A002
    return Entry(kind, VICTIM if at < 5 else REST, at, 0.0, id, attempt, value=value, text=text)


def run(id: str, at: float, *, attempt: int = 1) -> list[Entry]:  # noqa: A002
    return [entry("begun", id, at, attempt=attempt), entry("ended", id, at, attempt=attempt)]


def failure(at: float) -> list[Entry]:
    return [entry("begun", FAILING, at), entry("failed", FAILING, at, value=SOON)]


def sent() -> list[Entry]:
    return [entry("confirmed", FAILING), entry("confirmed", OTHER)]


def retried() -> list[Entry]:
    return [*sent(), *failure(1), *run(FAILING, 9, attempt=2), *run(OTHER, 8)]


def judged(
    entries: list[Entry], *, verdict: Verdict = "retry", unsettled: tuple[str, ...] = (), code: int = DIED,
    letters: dict[str, int] | None = None, ready: int = 0, resent: bool = True,
) -> list[str]:  # fmt: skip
    left = Left(letters or {}, ready)
    return complaints(hop(verdict), Books(entries, set(left.letters)), death(unsettled, code, resent=resent), left)


def death(unsettled: tuple[str, ...], code: int = DIED, *, resent: bool = True) -> Death:
    return Death(VICTIM, code, "", unsettled, resent)


def test_a_hop_that_nothing_disturbed() -> None:
    assert judged(retried()) == []


def test_a_step_that_was_never_reached() -> None:
    (complaint,) = judged(retried(), code=0)
    assert complaint.startswith("the step was never reached: the process ended with code 0")


def test_a_loss() -> None:
    assert judged([*sent(), *failure(1), *run(OTHER, 8)]) == [f"lost: {FAILING}"]


def test_what_was_unsettled_may_come_once_more_in_each_attempt() -> None:
    twice = [*retried(), *failure(6), *run(FAILING, 10, attempt=2)]
    assert judged(twice, unsettled=(FAILING,)) == []
    assert judged(twice) == [
        f"{FAILING}: 2 runs of attempt 1, and it was settled",
        f"{FAILING}: 2 runs of attempt 2, and it was settled",
    ]


def test_thrice_is_too_often() -> None:
    thrice = [*retried(), *run(FAILING, 10, attempt=2), *run(FAILING, 11, attempt=2)]
    assert judged(thrice, unsettled=(FAILING,)) == [f"{FAILING}: 3 runs of attempt 2, and it was unsettled"]


def test_others_are_judged_as_well() -> None:
    assert judged([*retried(), *run(OTHER, 9)]) == [f"{OTHER}: 2 runs of attempt 1, and it was settled"]
    assert judged([*retried(), *run(OTHER, 9)], unsettled=(OTHER,)) == []


def test_a_retry_before_its_time() -> None:
    early = [*sent(), *failure(1), *run(FAILING, 1 + SOON - 0.1, attempt=2), *run(OTHER, 8)]
    assert judged(early) == [f"{FAILING}: run 1 of attempt 2 is 0.100 s early"]


def test_each_copy_has_its_time() -> None:
    """The victim's was due long ago, and must not hide that another comes too early."""
    copies = [*retried(), *failure(9.5), *run(FAILING, 10, attempt=2)]
    assert judged(copies, unsettled=(FAILING,)) == [f"{FAILING}: run 2 of attempt 2 is 0.400 s early"]
    alone = [*sent(), *failure(1), *failure(9.5), *run(FAILING, 10, attempt=2), *run(OTHER, 8)]
    assert judged(alone, unsettled=(FAILING,)) == []
    assert judged(alone, unsettled=(FAILING,), resent=False) == [f"{FAILING}: run 1 of attempt 2 is 0.400 s early"]


@pytest.mark.parametrize(
    ("letters", "unsettled", "says"),
    [
        ({FAILING: 1}, (), []),
        ({FAILING: 2}, (FAILING,), []),
        ({FAILING: 2}, (), [f"{FAILING} is a dead letter 2 times, and it was settled"]),
        ({FAILING: 3}, (FAILING,), [f"{FAILING} is a dead letter 3 times, and it was unsettled"]),
        ({FAILING: 1, OTHER: 1}, (), [f"{OTHER} is a dead letter"]),
        ({}, (), [f"lost: {FAILING}"]),
    ],
)
def test_dead_letters(letters: dict[str, int], unsettled: tuple[str, ...], says: list[str]) -> None:
    entries = [*sent(), entry("begun", FAILING, 1), *run(OTHER, 8)]
    assert judged(entries, verdict="dead", letters=letters, unsettled=unsettled) == says


def test_what_is_left_behind() -> None:
    assert judged(retried(), ready=2) == ["left behind: 2 ready, 0 in flight, 0 delayed"]


def test_what_the_table_shows() -> None:
    books, left = Books([*retried(), *failure(6)]), Left({})
    assert (repeated(books, left), allowed(hop(), books, death((FAILING,)))) == (1, 2)
    letters = Left({FAILING: 2})
    books = Books([*sent(), entry("begun", FAILING, 1), entry("begun", FAILING, 6)], {FAILING})
    assert (repeated(books, letters), allowed(hop("dead"), books, death((FAILING,)))) == (2, 2)


def test_what_a_victim_wrote_down() -> None:
    assert unsettled_of([entry("begun", OTHER, 1), entry("unsettled", "", 2, text=f"{FAILING} {OTHER}")]) == {
        FAILING,
        OTHER,
    }

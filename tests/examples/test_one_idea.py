"""Every example in a single file: it ends by itself, with code 0, and says what it is about."""

from __future__ import annotations

import pytest

from tests.examples.commands import ROOT, python

ESSENTIAL = {
    "batches": ["50 came together, 49 of them stored", "dead letter: sensor='s1' celsius=-999.0"],
    "blocking": ["9 signups wait for a consumer"],
    "dead_letters": ["order 1 is a dead letter after 3 attempts: ", "order 1 shipped to Mill Lane 2"],
    "delayed": ["put the cake in\n", "turn the cake\n", "take the cake out\n"],
    "idempotency": ["charged: order=7 customer='Ada' amount=30", "retried 1, duplicates skipped 2"],
    "inbox": ["balance 30; retried 1, duplicates skipped 2"],
    "injection": ["order 2 of Bob saved by unibus, 2 in all\ndatabase closed, after the last one"],
    "message_types": ["user.created.v1: welcome Ada", "user.renamed.v1: Ada is now Ada L."],
    "middleware": ["hello Ada\n", "Bob took 0 ms"],
    "outcomes": ["parcel 1 for Ada delivered at attempt 2", "retried 1, dead-lettered 1, dropped 1"],
    "publish_subscribe": ["statistics order.paid.late  Cyd", "dashboard  weather          rain"],
    "rate_limit": ["12 calls, ", " messages had to wait"],
    "request_chain": ["payment.done  request-17  "],
    "retries": ["attempt 1: no answer\nattempt 2: come back later\nattempt 3: too slow\nattempt 4: paid"],
    "testing_handlers": ["test_that_it_gives_up_after_three: passed"],
    "timeouts": ["attempt 1: cancelled, ", "attempt 2: the report 'january' is made"],
    "work_queue": ["4 orders sent", "order 2 packed, 1 items"],
}
MACHINERY = {"__init__", "running"}
ON_OTHER_BROKERS = sorted(ESSENTIAL.keys() - {"testing_handlers"})
MAX_LINES = 60


def assert_says(example: str, *arguments: str, essential: list[str]) -> None:
    ended = python("-m", f"examples.{example}", *arguments)
    assert ended.returncode == 0, ended.stderr
    for text in essential:
        assert text in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("example", sorted(ESSENTIAL))
def test_it_says_what_it_is_about(example: str) -> None:
    assert_says(example, essential=ESSENTIAL[example])


@pytest.mark.parametrize("example", ON_OTHER_BROKERS)
def test_it_runs_on_a_log_as_well(example: str) -> None:
    assert_says(example, "--url", "memory://?model=log", essential=[])


def test_none_is_forgotten() -> None:
    files = {path.stem for path in (ROOT / "examples").glob("*.py")}
    assert files == ESSENTIAL.keys() | MACHINERY
    listed = (ROOT / "examples" / "README.md").read_text()
    assert [name for name in sorted(ESSENTIAL) if f"({name}.py)" not in listed] == []


@pytest.mark.parametrize("example", sorted(ESSENTIAL))
def test_it_fits_on_a_screen(example: str) -> None:
    assert len((ROOT / "examples" / f"{example}.py").read_text().splitlines()) <= MAX_LINES


def test_the_help_is_the_examples_own_text() -> None:
    ended = python("-m", "examples.work_queue", "--help")
    assert ended.returncode == 0
    assert "usage: python -m examples.work_queue" in ended.stdout
    assert "each order goes to one handler" in ended.stdout


def test_what_a_broker_cannot_do_is_said_in_one_line() -> None:
    ended = python("-m", "examples.delayed", "--url", "memory://?delay=off")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: this broker cannot do what the program asks: ")
    assert len(ended.stderr.splitlines()) == 1


def test_a_mistyped_scheme_names_the_nearest() -> None:
    ended = python("-m", "examples.work_queue", "--url", "memry://")
    assert ended.returncode == 1
    assert "memory://" in ended.stderr

"""The shop on several brokers: the same story, and noticed if it is another."""

from __future__ import annotations

from tests.examples.commands import python

WITHOUT_RETRY = """
import sys
import examples.swap.__main__ as swap
first = swap.told_on

async def told_on(url, topics):
    lines = await first(url, topics)
    return [line.replace("attempt 2", "attempt 1") for line in lines] if "log" in url else lines

swap.told_on = told_on
sys.argv[1:] = ["memory://", "memory://?model=log"]
sys.exit(swap.main())
"""


def test_it_is_the_same_story_on_both_models_of_memory() -> None:
    ended = python("-m", "examples.swap", "memory://", "memory://?model=log")
    assert ended.returncode == 0, ended.stderr
    assert "charged        order 3 of ada at attempt 2\n" in ended.stdout
    assert "dead letters   order 5: no card\n" in ended.stdout
    assert "steps of bob   packed\nsteps of bob   shipped\nsteps of bob   delivered\n" in ended.stdout
    assert ended.stdout.endswith("\nmemory://: so it went\nmemory://?model=log: the same\n")


def test_another_story_is_noticed() -> None:
    ended = python("-c", WITHOUT_RETRY)
    assert ended.returncode == 1
    assert ended.stderr.endswith("error: memory://?model=log told another story\n")


def test_a_broker_that_may_lose_messages_is_refused() -> None:
    ended = python("-m", "examples.swap", "memory://?guarantee=at_most_once")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: memory://?guarantee=at_most_once: this broker cannot do")

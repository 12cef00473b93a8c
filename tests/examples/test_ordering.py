"""The flights in an ordered queue: in order, and noticed if they are not."""

from __future__ import annotations

import re

import pytest

from tests.examples.commands import python

IN_ORDER = re.compile(r"^26,849 flights, (\d+) of them failed once: every aircraft's are in order\.$", re.MULTILINE)


@pytest.mark.parametrize("url", ["memory://", "memory://?model=log"])
def test_each_aircrafts_flights_are_in_order_although_some_fail(url: str) -> None:
    ended = python("-m", "examples.ordering", "--url", url)
    assert ended.returncode == 0, ended.stderr
    found = IN_ORDER.search(ended.stdout)
    assert found is not None
    assert int(found[1]) > 100
    assert "failed\n" in ended.stdout
    assert "handled, attempt 2\n" in ended.stdout


def test_an_order_that_is_wrong_is_noticed() -> None:
    """The same program without the one word that it is about."""
    unordered = (
        "import runpy, unibus; from unibus.address import Queue; "
        "unibus.Queue = lambda name, ordering='none': Queue(name); "
        "runpy.run_module('examples.ordering', run_name='__main__')"
    )
    ended = python("-c", unordered)
    assert ended.returncode == 1
    assert re.search(r"^error: [\d,]+ aircraft are out of order", ended.stderr, re.MULTILINE)

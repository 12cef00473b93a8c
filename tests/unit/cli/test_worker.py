"""What a worker process is made of, where no process is needed to see it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from unibus.cli.run import share
from unibus.cli.worker import Work, fastest_loop


def test_uvloop_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = object()
    monkeypatch.setitem(sys.modules, "uvloop", SimpleNamespace(new_event_loop=factory))
    assert fastest_loop() is factory


def test_without_uvloop_it_is_asyncio_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert fastest_loop() is None


def test_each_worker_gets_the_next_health_port() -> None:
    works = share(Work("app:bus", health_port=8000), 3)
    assert [work.health_port for work in works] == [8000, 8001, 8002]
    assert {work.workers for work in works} == {3}
    assert [work.health_port for work in share(Work("app:bus"), 2)] == [None, None]

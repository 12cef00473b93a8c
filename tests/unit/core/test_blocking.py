"""Blocking programs: from any thread, opened by the first call, in a forked child."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.core.orders import Order, handled
from unibus import Bus


def test_blocking_sends_from_any_thread_and_is_flushed() -> None:
    bus = Bus("memory://blocking-threads")
    handled(bus)
    with bus.blocking() as b:
        producer = b.producer("orders", Order)
        with ThreadPoolExecutor(8) as pool:
            ids = list(pool.map(lambda number: producer.send(Order(id=number)), range(100)))
        assert producer.send_many([Order(id=1), Order(id=2)]) == 2
        b.publisher("order.created").publish(Order(id=1))
        assert b.publisher("order.created", Order).publish_many([Order(id=1)]) == 1
        assert b.depth("orders").ready == 102
    assert len(set(ids)) == 100
    assert sum(thread.name == "unibus loop" for thread in threading.enumerate()) == 1


def test_a_blocking_bus_opens_by_its_first_call_and_again_after_close() -> None:
    bus = Bus("memory://blocking-again")
    handled(bus)
    b = bus.blocking()
    b.producer("orders").send(Order(id=1))
    b.close()
    b.close()
    b.producer("orders").send(Order(id=2))
    b.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_blocking_bus_works_in_a_forked_child(tmp_path: Path) -> None:
    program = tmp_path / "forking.py"
    program.write_text(
        textwrap.dedent("""
            import os
            from unibus import Bus

            bus = Bus("memory://")

            @bus.consumer("orders")
            async def handle(order: dict) -> None: ...

            b = bus.blocking()
            b.producer("orders").send({"id": 1})
            child = os.fork()
            if child == 0:
                b.producer("orders").send({"id": 2})
                print("child sent", flush=True)
                b.close()
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            b.producer("orders").send({"id": 3})
            print("parent sent")
        """)
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == ["child sent", "parent sent"]

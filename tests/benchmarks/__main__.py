"""What unibus adds on the memory broker, one core, as a multiple of validating one payload.

    python -m tests.benchmarks [--count 20000] [--rounds 9] [--only consume,send]

Total time per message less pydantic's own, over `validate_json` of the same payload measured in the
same round; the median of the rounds. Never a test: the figures depend on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tests.benchmarks.work import ORDERS, Order, encode, validate_json
from unibus import Bus, Queue

Scenario = Callable[[int], Coroutine[Any, Any, float]]


async def consume(count: int, *, ordered: bool = False, suspend: bool = False) -> float:
    bus = Bus("memory://")
    queue = Queue("orders", ordering="key" if ordered else "none")
    done = asyncio.Event()
    seen = 0

    @bus.consumer(queue)
    async def handle(order: Order) -> None:
        nonlocal seen
        if suspend:
            await asyncio.sleep(0)
        seen += 1
        if seen == count:
            done.set()

    async with bus:
        await bus.producer(queue, Order).send_many(
            (ORDERS[number % 512] for number in range(count)), key=lambda order: order.user_id
        )
        started = time.perf_counter()
        async with bus.consuming():
            await done.wait()
            while (await bus.depth(queue)).in_flight:
                await asyncio.sleep(0)
            return (time.perf_counter() - started) / count


async def send_many(count: int, *, ordered: bool = False) -> float:
    async with _with_queue(ordered) as bus:
        producer = bus.producer("orders", Order)
        started = time.perf_counter()
        key = (lambda order: order.user_id) if ordered else None
        await producer.send_many((ORDERS[number % 512] for number in range(count)), key=key)
        return (time.perf_counter() - started) / count


async def send(count: int, *, callers: int = 1) -> float:
    async with _with_queue(False) as bus:
        producer = bus.producer("orders", Order)
        numbers = iter(range(count))

        async def caller() -> None:
            for number in numbers:
                await producer.send(ORDERS[number % 512])

        started = time.perf_counter()
        await asyncio.gather(*[caller() for _ in range(callers)])
        return (time.perf_counter() - started) / count


def _with_queue(ordered: bool) -> Bus:
    bus = Bus("memory://")

    @bus.consumer(Queue("orders", ordering="key" if ordered else "none"))
    async def never(order: Order) -> None:
        """Declares the queue; nothing consumes in these scenarios."""

    return bus


# name: (scenario, pydantic's own part per message, bound or None)
SCENARIOS: dict[str, tuple[Scenario, Callable[[int], float], float | None]] = {
    "consume": (consume, validate_json, 1.0),
    "send_many": (send_many, encode, 1.5),
    "send, awaited one by one": (send, encode, 5.0),
    "consume by key": (lambda count: consume(count, ordered=True), validate_json, None),
    "consume, handler suspends once": (lambda count: consume(count, suspend=True), validate_json, None),
    "send_many by key": (lambda count: send_many(count, ordered=True), encode, None),
    "send, 64 callers": (lambda count: send(count, callers=64), encode, None),
}


def loops() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    found: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    try:
        found["uvloop"] = importlib.import_module("uvloop").new_event_loop
    except ImportError:
        print("uvloop is not installed: asyncio alone")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000, help="messages a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="scenarios whose names begin so, comma-separated")
    arguments = parser.parse_args()
    wanted = tuple(arguments.only.split(","))
    print(f"{'scenario':34}{'loop':9}{'x validate':>11}{'bound':>7}{'us a message':>14}{'validate us':>13}")
    for name, (scenario, own_part, bound) in SCENARIOS.items():
        if not name.startswith(wanted):
            continue
        for loop_name, factory in loops().items():
            ratios: list[float] = []
            totals: list[float] = []
            units: list[float] = []
            for _ in range(arguments.rounds):
                gc.collect()  # the garbage of the round before is not this round's
                unit = validate_json(arguments.count)
                own = own_part(arguments.count)
                with asyncio.Runner(loop_factory=factory) as runner:
                    total = runner.run(scenario(arguments.count))
                ratios.append((total - own) / unit)
                totals.append(total * 1e6)
                units.append(unit * 1e6)
            shown = f"{bound:.1f}" if bound is not None and loop_name == "asyncio" else ""
            print(
                f"{name:34}{loop_name:9}{statistics.median(ratios):11.2f}{shown:>7}"
                f"{statistics.median(totals):14.2f}{statistics.median(units):13.2f}"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()

"""What unibus reaches on RabbitMQ, as a multiple of hand-written aio-pika in the same run.

`python -m tests.benchmarks.rabbitmq [URL] [--rounds 5] [--count 20000] [--queue-type quorum]`; without a URL a broker
is started. Each contender runs in a process of its own, in turn. raw is what a careful user writes; all is checked:
every message was confirmed, and handled.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable

import aio_pika

from tests.benchmarks.work import ORDERS, Order
from unibus import Bus
from unibus.driver import Queue

URL = os.environ.get("BENCH_URL", "")
COUNT = int(os.environ.get("BENCH_COUNT", "20000"))
QUEUE_TYPE = os.environ.get("BENCH_QUEUE_TYPE", "classic")
TASKS, PREFETCH = 64, 256
PACED, A_SECOND = 2000, 500

Send = Callable[[int], Awaitable[object]]


async def drive(send: Send) -> dict[str, float]:
    """Many tasks, each awaiting its confirm."""
    numbers = iter(range(COUNT))

    async def work() -> None:
        for number in numbers:
            await send(number)

    began = time.perf_counter()
    await asyncio.gather(*[work() for _ in range(TASKS)])
    return {"per_s": COUNT / (time.perf_counter() - began)}


async def pace(send: Send) -> dict[str, float]:
    """One at a time, so many a second: how long each takes."""
    took, due = [], time.perf_counter()
    for number in range(PACED):
        due += 1 / A_SECOND
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        began = time.perf_counter()
        await send(number)
        took.append(time.perf_counter() - began)
    took.sort()
    return {"p50": took[PACED // 2] * 1e6, "p99": took[PACED * 99 // 100] * 1e6}


class Handled:
    """Counts; the rate is from the first to the last."""

    def __init__(self) -> None:
        self.seen = 0
        self.first = 0.0
        self.done = asyncio.Event()
        self.rate = 0.0

    def one(self) -> None:
        if self.seen == 0:
            self.first = time.perf_counter()
        self.seen += 1
        if self.seen == COUNT:
            self.rate = COUNT / (time.perf_counter() - self.first)
            self.done.set()


async def with_queue(
    run: Callable[[str, aio_pika.abc.AbstractChannel], Awaitable[dict[str, float]]],
) -> dict[str, float]:
    async with await aio_pika.connect(URL) as connection:
        channel, name = await connection.channel(), f"bench-{uuid.uuid4().hex}"
        await channel.declare_queue(name, durable=True, arguments={"x-queue-type": QUEUE_TYPE})
        try:
            return await run(name, channel)
        finally:
            await channel.queue_delete(name)


async def left(channel: aio_pika.abc.AbstractChannel, name: str, expected: int) -> None:
    for _ in range(100):
        queue = await channel.declare_queue(name, passive=True)
        if queue.declaration_result.message_count == expected:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{queue.declaration_result.message_count} messages in the queue, not {expected}")


async def raw_sending(measure: Callable[[Send], Awaitable[dict[str, float]]], expected: int) -> dict[str, float]:
    async def run(name: str, channel: aio_pika.abc.AbstractChannel) -> dict[str, float]:
        connection = await aio_pika.connect_robust(URL)
        exchange = (await connection.channel(publisher_confirms=True)).default_exchange

        async def send(number: int) -> None:
            body = ORDERS[number % 512].model_dump_json().encode()
            message = aio_pika.Message(body, delivery_mode=2, content_type="application/json")
            await exchange.publish(message, routing_key=name)

        result = await measure(send)
        await left(channel, name, expected)
        await connection.close()
        return result

    return await with_queue(run)


async def unibus_sending(measure: Callable[[Send], Awaitable[dict[str, float]]], expected: int) -> dict[str, float]:
    async def run(name: str, channel: aio_pika.abc.AbstractChannel) -> dict[str, float]:
        async with Bus(URL) as bus:
            producer = bus.producer(name, type=Order)
            result = await measure(lambda number: producer.send(ORDERS[number % 512]))
        await left(channel, name, expected)
        return result

    return await with_queue(run)


async def fill(name: str) -> None:
    async with Bus(URL) as bus:
        assert await bus.producer(name, type=Order).send_many(ORDERS[n % 512] for n in range(COUNT)) == COUNT


async def raw_consuming() -> dict[str, float]:
    async def run(name: str, channel: aio_pika.abc.AbstractChannel) -> dict[str, float]:
        await fill(name)
        handled = Handled()
        connection = await aio_pika.connect_robust(URL)
        own = await connection.channel()
        await own.set_qos(prefetch_count=PREFETCH)
        queue = await own.declare_queue(name, passive=True)

        async def handle(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            async with message.process():
                Order.model_validate_json(message.body)
                handled.one()

        await queue.consume(handle)
        await handled.done.wait()
        await asyncio.sleep(0.2)
        await connection.close()
        await left(channel, name, 0)
        return {"per_s": handled.rate}

    return await with_queue(run)


async def unibus_consuming() -> dict[str, float]:
    async def run(name: str, channel: aio_pika.abc.AbstractChannel) -> dict[str, float]:
        await fill(name)
        handled, bus, own = Handled(), Bus(URL), Queue(f"bench.{uuid.uuid4().hex[:8]}", physical=name)

        @bus.consumer(own, prefetch=PREFETCH)
        async def handle(order: Order) -> None:
            handled.one()

        async with bus.consuming():
            await handled.done.wait()
        await left(channel, name, 0)
        await channel.queue_delete(own.dead_letters.name)
        return {"per_s": handled.rate}

    return await with_queue(run)


SCENARIOS: dict[str, dict[str, Callable[[], Awaitable[dict[str, float]]]]] = {
    "rabbit_publish": {"raw": lambda: raw_sending(drive, COUNT), "unibus": lambda: unibus_sending(drive, COUNT)},
    "rabbit_consume": {"raw": raw_consuming, "unibus": unibus_consuming},
    "rabbit_paced": {"raw": lambda: raw_sending(pace, PACED), "unibus": lambda: unibus_sending(pace, PACED)},
}


def one(scenario: str, contender: str) -> None:
    uvloop = importlib.import_module("uvloop")  # not installed where types are checked

    async def limited() -> dict[str, float]:
        return await asyncio.wait_for(SCENARIOS[scenario][contender](), 300)

    print(json.dumps(uvloop.run(limited())))


def in_its_own_process(scenario: str, contender: str, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.rabbitmq", "--one", scenario, contender]
    ran = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{contender} failed at {scenario}:\n{ran.stderr}")
    result: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", default="20000")
    parser.add_argument("--queue-type", default="classic", choices=["classic", "quorum"])
    parser.add_argument("--only", choices=SCENARIOS)
    parser.add_argument("--one", nargs=2)
    given = parser.parse_args()
    if given.one:
        one(*given.one)
        return
    from tests.brokers import broker

    url = given.url or broker("rabbitmq").url
    environment = {"BENCH_URL": url, "BENCH_COUNT": given.count, "BENCH_QUEUE_TYPE": given.queue_type}
    for scenario, contenders in SCENARIOS.items():
        if given.only in (None, scenario):
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
            for _ in range(given.rounds):
                for name, results in rounds.items():
                    results.append(in_its_own_process(scenario, name, environment))
            report(scenario, rounds)


def report(scenario: str, rounds: dict[str, list[dict[str, float]]]) -> None:
    for figure in next(iter(rounds.values()))[0]:
        medians = {name: statistics.median(result[figure] for result in results) for name, results in rounds.items()}
        shown = "  ".join(f"{name} {value:9,.0f} ({value / medians['raw']:.2f} x)" for name, value in medians.items())
        print(f"{scenario:15s} {figure:6s} {shown}", flush=True)


if __name__ == "__main__":
    main()

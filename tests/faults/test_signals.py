"""`unibus run` under load on real brokers: drained by a signal, released by a second one, asked how it is."""

from __future__ import annotations

import asyncio
import http.client
import socket
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.brokers import broker
from tests.faults.journal import Reading
from tests.faults.kafka import KAFKA
from tests.faults.loaded import CONCURRENCY, VARIABLE, Loaded
from tests.faults.processes import WRONG, Processes, Worker
from tests.faults.rabbitmq import RABBITMQ_4
from tests.faults.redis import REDIS_8
from tests.faults.server import Server
from tests.faults.sqs import ELASTICMQ, MOTO
from unibus import Bus
from unibus.cli.worker import EXIT_CLEAN, EXIT_FORCED

COUNT = 600
WORKERS = 2
GRACE = 20.0
"""Seconds, by default."""
PATIENCE = 60.0
LOOK_EVERY = 0.02

pytestmark = pytest.mark.parametrize(
    "server", [RABBITMQ_4, REDIS_8, KAFKA, MOTO, ELASTICMQ], ids=lambda server: server.name
)


class Load:
    """A queue with messages in it, and a program that consumes them."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.url = server.url(broker(server.name))
        self.queue = f"signals.{uuid.uuid4().hex[:6]}"
        self.processes = Processes(folder)
        self.reading = Reading(folder)
        self.bus = Bus(self.url)
        self._folder = folder

    async def send(self) -> None:
        """To those who are ready, so that each has its share from the first on."""
        await self.bus.producer(self.queue).send_many(str(number) for number in range(COUNT))

    async def run(self, *options: str, work: float, url: str = "") -> Worker:
        """Returns once it is ready."""
        task = Loaded(queue=self.queue, folder=self._folder, work=work)
        words = ["run", "tests.faults.loaded:bus", "--url", url or self.url, *options]
        environment = {VARIABLE: task.model_dump_json()}
        name = f"run-{len(self.processes.workers)}"
        running = await self.processes.command(name, "unibus.cli", *words, environment=environment)
        workers = WORKERS if "--workers" in options else 1
        await self.until("it is ready", lambda: running.stderr().count("is ready") == workers)
        return running

    def runs(self, kind: str) -> Counter[str]:
        return Counter(entry.id for entry in self.reading.by_kind(kind))

    async def until(self, what: str, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        self.reading.catch_up()
        while not true():
            assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
            await asyncio.sleep(LOOK_EVERY)
            self.reading.catch_up()

    async def nothing_is_held(self, ready: int) -> None:
        """Everything that is not done is there for others, and nothing is with those who are gone."""
        deadline = time.monotonic() + PATIENCE
        while (found := await self._held()) != (ready, 0):
            assert time.monotonic() < deadline, f"{found} are ready and in flight, not {ready} and none"
            await asyncio.sleep(LOOK_EVERY)

    async def _held(self) -> tuple[int, int]:
        depth = await self.bus.depth(self.queue)
        return depth.ready, depth.in_flight or 0


@pytest.fixture
async def load(server: Server, tmp_path: Path) -> AsyncIterator[Load]:
    load = Load(server, tmp_path)
    try:
        async with load.bus:
            yield load
    finally:
        await load.processes.kill_all()


async def test_sigterm_under_load_repeats_nothing(load: Load) -> None:
    running = await load.run("--workers", str(WORKERS), work=0.2)
    await load.send()
    await load.until("both work", lambda: len({entry.pid for entry in load.reading.by_kind("ended")}) == WORKERS)
    running.ask_to_stop()
    assert await running.ended(GRACE), "it does not end within its grace"
    assert (running.code, running.complaints([])) == (EXIT_CLEAN, [])
    load.reading.catch_up()
    begun, ended = load.runs("begun"), load.runs("ended")
    assert begun == ended, "a handler was cut off"
    assert len(ended) < COUNT, "there was nothing to give back"
    await load.nothing_is_held(ready=COUNT - len(ended))
    rest = await load.run(work=0.0)
    await load.until("the rest is handled", lambda: len(load.runs("ended")) == COUNT)
    rest.ask_to_stop()
    assert await rest.ended()
    assert set(load.runs("begun").values()) == {1}, "something came twice"
    await load.nothing_is_held(ready=0)


async def test_a_second_sigterm_releases_at_once(load: Load) -> None:
    running = await load.run("--workers", str(WORKERS), work=600.0)
    await load.send()
    await load.until("all lanes work", lambda: len(load.runs("begun")) == WORKERS * CONCURRENCY)
    running.ask_to_stop()
    await load.until("both drain", lambda: running.stderr().count("draining") == WORKERS)
    asked = time.monotonic()
    running.ask_to_stop()
    assert await running.ended(GRACE)
    assert time.monotonic() - asked < GRACE / 2, "it waited for its handlers"
    assert (running.code, WRONG.search(running.stderr())) == (EXIT_FORCED, None)
    assert not load.runs("ended")
    await load.nothing_is_held(ready=COUNT)
    rest = await load.run(work=0.0)
    await load.until("all is handled", lambda: len(load.runs("ended")) == COUNT)
    assert {entry.attempt for entry in load.reading.by_kind("begun")} == {1}, "to be let go of is no failure"
    rest.ask_to_stop()
    assert await rest.ended()


async def test_health_over_http_while_the_broker_is_away(load: Load, server: Server) -> None:
    port = free_port()
    async with server.proxy(broker(server.name)) as proxy:
        running = await load.run("--health-port", str(port), work=0.0, url=server.url(broker(server.name), proxy))

        async def until(path: str, status: int, says: str = "") -> None:
            deadline = time.monotonic() + PATIENCE
            while (answer := await asyncio.to_thread(ask, port, path)) is None or answer[0] != status:
                assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {path} says {status}, but {answer}"
                await asyncio.sleep(LOOK_EVERY)
            assert says in answer[1]

        await until("/ready", 200)
        await load.send()
        await load.until("all is handled", lambda: len(load.runs("ended")) == COUNT)
        proxy.cut(refuse=True)
        await until("/ready", 503, f"{load.queue}: the broker is away")
        await until("/live", 200)
        proxy.heal()
        await until("/ready", 200)
        running.ask_to_stop()
        assert await running.ended()
        assert running.code == EXIT_CLEAN, running.stderr()


def ask(port: int, path: str) -> tuple[int, str] | None:
    """Status and content, or None while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except ConnectionError:
        return None
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port

"""Opening, running, signals, blocking programs, pulling, health, resources."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from unibus import Bus, ConfigurationError, Message, Queue, Reject, TopicSubscription, constant, retry
from unibus.driver import Address, Blocked, Disconnected, Gap, Outbound, Reconnected, Unblocked
from unibus.errors import ConnectionLost, DestinationNotFound
from unibus.testing import app


class Order(BaseModel):
    id: int


def handled(bus: Bus, **options: Any) -> list[int]:
    """Register a handler of `orders` that notes what it gets."""
    seen: list[int] = []

    @bus.consumer("orders", **options)
    async def handle(order: Order) -> None:
        seen.append(order.id)

    return seen


# --- who creates ------------------------------------------------------------------------------------------


async def test_producers_verify_and_consumers_create() -> None:
    bus = Bus("memory://")
    bus.producer("nowhere")
    with pytest.raises(DestinationNotFound, match="nowhere"):
        async with bus:
            pass
    late = Bus("memory://")
    async with late:
        with pytest.raises(DestinationNotFound, match="elsewhere"):
            await late.producer("elsewhere").send(1)
        await late.publisher("anything").publish(1)  # to nobody: no error


async def test_declare_verify_insists_and_none_asks_nothing() -> None:
    strict = Bus("memory://who-creates", declare="verify")
    handled(strict)
    with pytest.raises(DestinationNotFound):
        async with strict:
            pass
    creating = Bus("memory://who-creates")
    handled(creating)
    async with creating:
        async with strict:
            await strict.producer("orders").send(Order(id=1))
        async with Bus("memory://who-creates", declare="none") as careless:
            await careless.producer("orders").send(Order(id=1))
            with pytest.raises(DestinationNotFound):
                await careless.producer("nowhere").send(Order(id=1))
        assert (await creating.depth("orders")).ready == 2


async def test_configuration_overrides_the_decorator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unibus.toml").write_text(
        'url = "memory://"\nidempotency_store = "memory"\n[consumers.orders]\nconcurrency = 3\nretry_attempts = 1\n'
        'timeout = 5\n[consumers.typo]\nprefetch = 1\n[queues.orders]\nordering = "key"\n'
    )
    monkeypatch.chdir(tmp_path)
    bus = Bus()
    handled(bus, concurrency=50)
    async with bus.consuming():
        (plan,) = bus.session.plans
        assert (plan.concurrency, plan.timeout, plan.retry.policies[0].attempts, plan.ordered) == (3, 5.0, 1, True)


async def test_a_configured_name_that_nobody_has_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "unibus.toml").write_text("[consumers.typo]\nprefetch = 1\n")
    monkeypatch.chdir(tmp_path)
    async with Bus("memory://"):
        pass
    assert "typo" in caplog.text


async def test_a_bus_can_be_opened_again_and_private_memory_is_gone() -> None:
    bus = Bus("memory://")
    seen = handled(bus)
    async with bus:
        await bus.producer("orders").send(Order(id=1))
    async with app(bus) as t:
        await t.send("orders", Order(id=2))
        await t.settled()
    assert seen == [2]


async def test_an_open_bus_sends_and_does_not_consume() -> None:
    bus = Bus("memory://")
    seen = handled(bus)
    async with bus:
        await bus.producer("orders").send(Order(id=1))
        await asyncio.sleep(0.01)
        assert seen == []
        async with bus.consuming():
            while not seen:
                await asyncio.sleep(0)
    assert seen == [1]


async def test_a_lifespan_that_fails_closes_everything() -> None:
    async def lifespan() -> Any:
        raise OSError("no database")
        yield

    lifespan.__annotations__["return"] = "collections.abc.AsyncIterator[int]"
    lifespan.__globals__["collections"] = __import__("collections.abc")
    bus = Bus("memory://", lifespan=lifespan)
    handled(bus)
    with pytest.raises(OSError, match="no database"):
        async with bus.consuming():
            pass
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


# --- pulling ----------------------------------------------------------------------------------------------


async def test_pull_settles_by_hand_and_gives_back_the_rest() -> None:
    bus = Bus("memory://")
    handled(bus)
    async with bus:
        await bus.producer("orders").send_many([Order(id=number) for number in range(5)])
        await bus.producer("orders").send({"id": "x"})
        async with bus.pull(queue="orders", type=Order) as deliveries:
            got = []
            async for delivery in deliveries:
                got.append(delivery.data.id)
                match delivery.data.id:
                    case 0:
                        await delivery.ack()
                    case 1:
                        await delivery.retry(after=0.05)
                    case 2:
                        await delivery.reject("no")
                if len(got) == 5:
                    break
            again = await deliveries.next(max_wait=30)
            assert again is not None
            assert (again.data.id, again.message.attempt) == (1, 2)
            await again.ack()
            assert await deliveries.next(max_wait=0) is None
        assert got == [0, 1, 2, 3, 4]
        assert (await bus.depth("orders")).ready == 2
        dead = []
        async with bus.pull(queue="orders.dlq") as deliveries:
            while (delivery_ := await deliveries.next(max_wait=0.05)) is not None:
                dead.append(delivery_.data)
                await delivery_.ack()
        assert sorted(dead, key=str) == [{"id": "x"}, {"id": 2}]


async def test_pull_from_a_group_of_topics() -> None:
    bus = Bus("memory://")
    async with bus, bus.pull("order.*", group="audit", type=Order) as deliveries:
        await bus.publisher("order.created").publish(Order(id=4))
        delivery = await deliveries.next(max_wait=1)
        assert delivery is not None
        assert (delivery.data.id, delivery.message.address) == (4, "order.created")
        await delivery.ack()
    with pytest.raises(ConfigurationError, match="not both"):
        bus.pull("order.*", queue="orders")


# --- health -----------------------------------------------------------------------------------------------


async def test_health_says_why() -> None:
    bus = Bus("memory://", stall_after=60)
    hang = asyncio.Event()

    @bus.consumer("orders", concurrency=1)
    @retry(on=ConnectionError, attempts=1)
    async def handle(order: Order) -> None:
        await hang.wait()

    assert (bus.health().live, bus.health().ready) == (True, False)
    async with app(bus) as t:
        assert (bus.health().live, bus.health().ready) == (True, True)
        notify = bus.session.consumers[0]._on_event
        for event, says in ((Disconnected("cut"), "away"), (Blocked("disk"), "takes no messages")):
            notify(event)
            assert says in bus.health().reasons[0]
            notify(Reconnected())
            notify(Unblocked())
            assert bus.health().ready
        notify(Gap(3))
        assert bus.stats()["orders"].gaps == 1
        await t.clock.advance(1000)  # idle is healthy
        await t.send("orders", Order(id=1))
        await t.clock.advance(50)
        assert bus.health().ready
        await t.clock.advance(20)
        assert "no progress" in bus.health().reasons[0]
        hang.set()
        await t.settled()
        assert bus.health().ready
    assert bus.health().live is False
    assert bus.stats()["orders"].handled == 1  # kept for those who look afterwards


async def test_dead_letters_that_cannot_be_sent_are_neither_acked_nor_lost(caplog: pytest.LogCaptureFixture) -> None:
    down = True

    class NoDeadLetters:
        """The memory driver, whose dead-letter queue is out of reach for a while."""

        def __init__(self, driver: Any) -> None:
            self.driver = driver

        def __getattr__(self, name: str) -> Any:
            return getattr(self.driver, name)

        async def send(self, address: Address, messages: Sequence[Outbound]) -> None:
            if down and address.name == "orders.dlq":
                raise ConnectionLost("out of reach")
            await self.driver.send(address, messages)

    bus = Bus("memory://")

    runs: list[int] = []

    @bus.consumer("orders", prefetch=10)
    async def handle(order: Order) -> None:
        runs.append(order.id)
        raise Reject("no")

    # The kit connects memory itself, so the broken driver goes on top of what it connected.
    async with app(bus) as t:
        session = bus.session
        session.driver = NoDeadLetters(session.driver)
        session._senders.clear()
        await bus.producer("orders").send_many([Order(id=number) for number in range(8)])
        await t.clock.advance(30)
        assert (await bus.depth("orders")).in_flight == 8
        assert bus.stats()["orders"].dead_lettered == 0
        assert bus.stats()["orders"].send_failures == 8 * 5  # after 0, 1, 3, 7 and 15 s
        assert bus.health().reasons == ("orders: 40 re-sends or dead letters in a row failed",)
        await bus.producer("orders").send_many([Order(id=number) for number in range(8, 16)])
        await t.clock.advance(0.5)
        assert len(runs) == 8  # five in a row failed: nothing more is fetched for a while
        down = False
        await t.settled()
        assert sorted(runs) == list(range(16))  # only the sending was done again
        assert len(t.dead_letters("orders")) == 16
        assert bus.health().ready


# --- resources --------------------------------------------------------------------------------------------


async def test_many_topics_cost_no_task_each() -> None:
    bus = Bus("memory://")
    async with bus:
        for number in range(5000):
            await bus.publisher(f"topic.n{number}").publish(number)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1


async def test_memory_does_not_grow_with_messages() -> None:
    """The objects left after 20,000 messages are not more than after 2,000."""
    bus = Bus("memory://")
    seen = 0

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        nonlocal seen
        seen += 1
        if order.id % 10 == 0:
            raise Reject("no")

    @bus.consumer("orders.dlq")
    async def bury(order: Order) -> None: ...

    async def pass_through(count: int) -> int:
        await bus.producer("orders").send_many(Order(id=number) for number in range(count))
        for queue in ("orders", "orders.dlq"):
            while (depth := await bus.depth(queue)).ready or depth.in_flight:
                await asyncio.sleep(0)
        gc.collect()
        return len(gc.get_objects())

    logging.getLogger("unibus.consumer").setLevel(logging.ERROR)
    try:
        async with bus.consuming():
            await pass_through(500)
            before = await pass_through(2_000)
            after = await pass_through(20_000)
    finally:
        logging.getLogger("unibus.consumer").setLevel(logging.NOTSET)
    assert after - before < 500


async def test_all_tasks_end_at_close() -> None:
    bus = Bus("memory://")
    seen = handled(bus)

    @bus.subscriber("order.*", group="audit")
    async def audit(order: Order) -> None: ...

    async with bus.consuming():
        for number in range(20):
            await bus.producer("orders").send(Order(id=number))
        while len(seen) < 20:
            await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_message_crosses_few_python_calls() -> None:
    """From the lane to the handler's first line, and back to the ack, with the default stack."""
    bus = Bus("memory://")
    done = asyncio.Event()
    count = 500
    calls: dict[str, int] = {}

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        if order.id == count - 1:
            done.set()

    def profile(frame: Any, event: str, _: object) -> None:
        if event == "call" and f"{os.sep}unibus{os.sep}" in frame.f_code.co_filename:
            calls[frame.f_code.co_filename] = calls.get(frame.f_code.co_filename, 0) + 1

    async with bus:
        await bus.producer("orders").send_many([Order(id=number) for number in range(count)])
        sys.setprofile(profile)
        try:
            async with bus.consuming():
                await done.wait()
        finally:
            sys.setprofile(None)
    per_message = {Path(name).name: number / count for name, number in calls.items() if number >= count}
    assert sum(per_message.values()) <= 15
    assert len(per_message) <= 7


# --- blocking programs --------------------------------------------------------------------------------------


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


# --- signals ------------------------------------------------------------------------------------------------

SERVING = """
import asyncio, sys
from unibus import Bus

bus = Bus("memory://", grace=60)

@bus.consumer("orders")
async def handle(number: int) -> None:
    print("started", flush=True)
    try:
        await asyncio.sleep({seconds})
    finally:
        print("ended", flush=True)

async def fill(bus):
    await bus.producer("orders").send(1)

async def lifespan(bus: Bus) -> "collections.abc.AsyncIterator[None]":
    await bus.producer("orders").send(1)
    yield
    print("closed", flush=True)

import collections.abc
bus.lifespan = lifespan
bus.run()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_code_is_zero(tmp_path: Path, number: signal.Signals) -> None:
    lines, code = _serve(tmp_path, 0.3, [number])
    assert lines == ["started", "ended", "closed"]
    assert code == 0


def test_a_second_signal_releases_at_once(tmp_path: Path) -> None:
    lines, code = _serve(tmp_path, 600, [signal.SIGTERM, signal.SIGTERM])
    assert lines == ["started", "ended", "closed"]
    assert code == 1


def _serve(tmp_path: Path, seconds: float, signals: list[signal.Signals]) -> tuple[list[str], int]:
    program = tmp_path / "serving.py"
    program.write_text(SERVING.replace("{seconds}", str(seconds)))
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip()]
        for number in signals:
            process.send_signal(number)
            if len(signals) > 1:
                threading.Event().wait(0.2)  # two signals at once may arrive as one
        out, _ = process.communicate(timeout=60)
    return lines + out.split(), process.returncode


# --- ephemeral ------------------------------------------------------------------------------------------------


async def test_an_ephemeral_subscriber_has_no_dead_letters_and_retries_in_place() -> None:
    bus = Bus("memory://")
    attempts: list[int] = []

    @bus.subscriber("order.*")
    @retry(on=ValueError, attempts=3, backoff=constant(30))
    async def handle(order: Order, message: Message[Order]) -> None:
        attempts.append(message.attempt)
        raise ValueError

    async with app(bus) as t:
        await t.publish("order.created", Order(id=1))
        await t.settled()
        assert bus.stats()["order.*"].dropped == 1
        assert len(t.all_sent) == 1
    assert attempts == [1, 2, 3]


async def test_depth_of_a_group() -> None:
    bus = Bus("memory://")

    @bus.subscriber("order.*", group="audit")
    async def handle(order: Order) -> None: ...

    async with bus:
        await bus.publisher("order.created").publish(Order(id=1))
        assert (await bus.depth(TopicSubscription(("order.*",), "audit"))).ready == 1
        assert (await bus.depth(Queue("unibus.group.audit.dlq"))).ready == 0


HANGING = """
import asyncio
from unibus import Bus
from unibus.driver import Clock, Driver, Url
from unibus import registry

class Hanging:
    def __init__(self, driver): self.driver = driver
    def __getattr__(self, name): return getattr(self.driver, name)
    async def open(self):
        print("opening", flush=True)
        await asyncio.Event().wait()

Bus("memory://", connect=lambda url, clock: Hanging(registry.connect(url, clock))).run()
print("ended", flush=True)
"""


def test_a_signal_ends_a_program_whose_broker_does_not_answer(tmp_path: Path) -> None:
    program = tmp_path / "hanging.py"
    program.write_text(HANGING)
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "opening"
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert (out.split(), process.returncode) == (["ended"], 0)

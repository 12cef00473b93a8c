"""A handler that acts in its store's transaction: what becomes of effect and key, whatever goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from unibus import Bus, Handler, Message, constant, idempotent, retry, use
from unibus.errors import ConfigurationError, ConnectionLost
from unibus.idempotency.memory import MemoryStore
from unibus.idempotency.store import Claim, Done, InProgress, New
from unibus.testing import MovableClock, app


class Session(list[int]):
    """What a handler has done so far."""


class Ledger(MemoryStore):
    """Keeps numbers with keys, in the process. `ends` are how its next commits end: True is well."""

    provides = Session

    def __init__(self) -> None:
        super().__init__(MovableClock())
        self.numbers: list[int] = []
        self.keys: dict[str, str] = {}  # "open" or "done"
        self.ends: list[bool | Exception] = []
        self.down = False
        self.opened = 0

    async def open(self) -> None:
        self.opened += 1

    @asynccontextmanager
    async def transaction(self, keys: Sequence[str], ttl: float) -> AsyncIterator[Open]:
        if self.down:
            raise ConnectionLost("the store is down")
        ours = [key for key in keys if key not in self.keys]
        claims = [New(1) if key in ours else self._other(key) for key in keys]
        self.keys.update(dict.fromkeys(ours, "open"))
        try:
            yield Open(self, ours, claims)
        finally:
            for key in ours:
                if self.keys.get(key) == "open":
                    del self.keys[key]

    def _other(self, key: str) -> Claim:
        return Done() if self.keys[key] == "done" else InProgress("another", 5.0)


class Open:
    def __init__(self, ledger: Ledger, ours: list[str], claims: Sequence[Claim]) -> None:
        self.claims = claims
        self.resource = Session()
        self._ledger = ledger
        self._ours = ours

    async def commit(self, without: Sequence[str] = ()) -> None:
        await asyncio.sleep(0)
        end = self._ledger.ends.pop(0) if self._ledger.ends else True
        if end is not True and not (isinstance(end, ConnectionLost) and "kept" in str(end)):
            assert isinstance(end, Exception)
            raise end
        self._ledger.numbers += self.resource
        self._ledger.keys.update({key: "done" for key in self._ours if key not in without})
        if isinstance(end, Exception):
            raise end


def number(message: Message[Any]) -> object:
    return message.data


def adding(ledger: Ledger) -> tuple[Bus, list[int]]:
    """A bus whose handler adds numbers, and the attempts that it has seen."""
    bus, attempts = Bus("memory://", idempotency_store=ledger), list[int]()

    @bus.consumer("numbers")
    @idempotent(key=number)
    @retry(on=Exception, attempts=3, backoff=constant(5))
    async def add(data: int, message: Message[int], session: Session) -> None:
        attempts.append(message.attempt)
        session.append(data)
        await asyncio.sleep(0)

    return bus, attempts


async def test_duplicates_are_passed_over() -> None:
    ledger = Ledger()
    bus, attempts = adding(ledger)
    async with app(bus) as t:
        for data in (1, 2, 1, 3, 2, 1):
            await t.send("numbers", data)
        await t.settled()
        stats = bus.stats()["numbers"]
        assert (stats.handled, stats.skipped) == (3, 3)
    assert sorted(ledger.numbers) == [1, 2, 3]
    assert attempts == [1, 1, 1]


@pytest.mark.parametrize(("end", "runs"), [("kept", 1), ("undone", 2)])
async def test_after_a_commit_without_an_answer_the_key_tells_and_no_attempt_is_spent(end: str, runs: int) -> None:
    ledger = Ledger()
    ledger.ends = [ConnectionLost(f"no answer, and it was {end}")]
    bus, attempts = adding(ledger)
    async with app(bus) as t:
        await t.send("numbers", 7)
        await t.settled()
        assert t.dead_letters("numbers") == []
    assert ledger.numbers == [7]
    assert attempts == [1] * runs


async def test_what_a_commit_refuses_is_judged_by_the_retry_policy() -> None:
    ledger = Ledger()
    ledger.ends = [ValueError("a constraint")] * 2
    bus, attempts = adding(ledger)
    async with app(bus) as t:
        await t.send("numbers", 7)
        await t.settled()
        assert (ledger.numbers, attempts) == ([7], [1, 2, 3])
        ledger.ends = [ValueError("a constraint")] * 3
        await t.send("numbers", 8)
        await t.settled()
        (dead,) = t.dead_letters("numbers")
        assert dead.dead_letter is not None
        assert "a constraint" in dead.dead_letter.reason
    assert ledger.numbers == [7]
    assert "done" not in [state for key, state in ledger.keys.items() if key.endswith("8")]


async def test_a_failure_undoes_the_effect_and_frees_the_key() -> None:
    ledger, runs = Ledger(), list[int]()
    bus = Bus("memory://", idempotency_store=ledger)

    @bus.consumer("numbers")
    @idempotent(key=number)
    @retry(on=ConnectionError, attempts=3, backoff=constant(5))
    async def add(data: int, session: Session) -> None:
        session.append(data)
        runs.append(data)
        if len(runs) < 3:
            raise ConnectionError

    async with app(bus) as t:
        await t.send("numbers", 7)
        await t.settled()
    assert (ledger.numbers, runs) == ([7], [7, 7, 7])


async def test_while_the_store_is_down_messages_wait_and_no_attempt_is_spent() -> None:
    ledger = Ledger()
    ledger.down = True
    bus, attempts = adding(ledger)
    async with app(bus) as t:
        await t.send("numbers", 7)
        await t.clock.advance(120)
        assert attempts == []
        ledger.down = False
        await t.settled()
    assert (ledger.numbers, attempts) == ([7], [1])


async def test_a_key_that_another_process_has_is_tried_again() -> None:
    ledger = Ledger()
    bus, attempts = adding(ledger)
    async with app(bus) as t, ledger.transaction(["numbers:7"], 60) as other:
        await t.send("numbers", 7)
        await t.clock.advance(20)
        assert attempts == []
        await other.commit()
        await t.settled()
        assert bus.stats()["numbers"].skipped == 1
    assert attempts == []


async def test_a_second_message_of_a_key_waits_for_the_first_to_end() -> None:
    ledger, go, begun = Ledger(), asyncio.Event(), asyncio.Event()
    bus = Bus("memory://", idempotency_store=ledger)

    @bus.consumer("numbers")
    @idempotent(key=number)
    async def add(data: int, session: Session) -> None:
        session.append(data)
        begun.set()
        await go.wait()

    async with app(bus) as t:
        await t.send("numbers", 7)
        await begun.wait()
        await t.send("numbers", 7)
        await t.clock.advance(0.5)  # less than any wait of a key that another process has
        go.set()
        await t.settled(within=0.4)
        assert bus.stats()["numbers"].skipped == 1
    assert ledger.numbers == [7]


async def test_what_own_middlewares_do_belongs_to_the_run() -> None:
    ledger, fails, before_the_end = Ledger(), [ConnectionError("after the handler")], list[list[int]]()
    bus = Bus("memory://", idempotency_store=ledger)

    def failing_afterwards(inner: Handler) -> Handler:
        async def run(message: Message[Any]) -> object:
            await inner(message)
            before_the_end.append(list(ledger.numbers))
            if fails:
                raise fails.pop()
            return None

        return run

    @bus.consumer("numbers")
    @idempotent(key=number)
    @use(failing_afterwards)
    async def add(data: int, session: Session) -> None:
        session.append(data)

    async with app(bus) as t:
        await t.send("numbers", 7)
        await t.settled()
    assert before_the_end == [[], []]
    assert ledger.numbers == [7]


async def test_a_batch_is_one_transaction_without_the_keys_of_what_is_marked() -> None:
    ledger, runs = Ledger(), list[list[int]]()
    bus = Bus("memory://", idempotency_store=ledger)

    @bus.consumer("numbers", max_wait=1, concurrency=1)
    @idempotent(key=number)
    @retry(on=ConnectionError, attempts=3, backoff=constant(5))
    async def add(messages: list[Message[int]], session: Session) -> None:
        runs.append([message.data for message in messages])
        session += [message.data for message in messages]
        if len(runs) == 1:
            raise ConnectionError
        for message in messages:
            if message.data == 3 and len(runs) == 3:
                message.retry(after=10)
                session.remove(3)

    async with app(bus) as t:
        for data in (1, 2, 2, 3):
            await t.send("numbers", data)
        await t.settled()
        assert t.dead_letters("numbers") == []
        assert bus.stats()["numbers"].skipped == 1
    assert runs == [[1, 2, 3], [2], [1, 3], [3]], "the other message of 2 is handled while the first one waits"
    assert sorted(ledger.numbers) == [1, 2, 3]


@pytest.mark.parametrize("kept", ["kept", "undone"])
async def test_a_batch_whose_commit_has_no_answer_comes_again_without_an_attempt(kept: str) -> None:
    ledger, attempts = Ledger(), list[int]()
    ledger.ends = [ConnectionLost(f"no answer, and it was {kept}")]
    bus = Bus("memory://", idempotency_store=ledger)

    @bus.consumer("numbers", max_wait=1, concurrency=1)
    @idempotent(key=number)
    async def add(messages: list[Message[int]], session: Session) -> None:
        attempts.extend(message.attempt for message in messages)
        session += [message.data for message in messages]

    async with app(bus) as t:
        for data in (1, 2, 3):
            await t.send("numbers", data)
        await t.settled()
    assert sorted(ledger.numbers) == [1, 2, 3]
    assert set(attempts) == {1}


async def test_a_batch_waits_while_the_store_is_down() -> None:
    ledger = Ledger()
    ledger.down = True
    bus = Bus("memory://", idempotency_store=ledger)

    @bus.consumer("numbers", max_wait=0)
    @idempotent(key=number)
    async def add(messages: list[Message[int]], session: Session) -> None:
        session += [message.data for message in messages]

    async with app(bus) as t:
        await t.send("numbers", 7)
        await t.clock.advance(20)
        ledger.down = False
        await t.settled()
    assert ledger.numbers == [7]


# --- what is refused at start -------------------------------------------------------------------------


def handler() -> Callable[..., Any]:
    async def handle(data: int, session: Session) -> None: ...

    return handle


def in_a_thread() -> Callable[..., Any]:
    def handle(data: int, session: Session) -> None: ...

    return handle


@pytest.mark.parametrize(
    ("make", "option", "says"),
    [
        (handler, {"store": "memory"}, "'data', 'session' could each be the payload"),
        (handler, {"fail_open": True}, "leave fail_open out"),
        (in_a_thread, {}, "use `async def`"),
    ],
)
def test_refused(make: Callable[[], Callable[..., Any]], option: dict[str, Any], says: str) -> None:
    bus = Bus("memory://", idempotency_store=Ledger())
    bus.consumer("numbers")(idempotent(key=number, **option)(make()))
    with pytest.raises(ConfigurationError, match=says):
        bus.requirements()


def test_without_idempotent_there_is_no_transaction() -> None:
    bus = Bus("memory://", idempotency_store=Ledger())
    bus.consumer("numbers")(handler())
    with pytest.raises(ConfigurationError, match="what the store of its @idempotent provides"):
        bus.requirements()


def test_what_the_lifespan_yields_and_the_store_provides_is_refused() -> None:
    async def lifespan() -> AsyncIterator[Session]:
        yield Session()

    bus = Bus("memory://", idempotency_store=Ledger(), lifespan=lifespan)
    bus.consumer("numbers")(idempotent(key=number)(handler()))
    with pytest.raises(ConfigurationError, match="give the lifespan's a type of its own"):
        bus.requirements()


def test_to_look_at_the_plan_opens_nothing() -> None:
    ledger = Ledger()
    bus, _ = adding(ledger)
    assert bus.requirements()
    assert ledger.opened == 0

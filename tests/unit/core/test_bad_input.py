"""What a user gets for a mistake: an error at start that says what, where and what to do."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from pydantic import BaseModel

from unibus import (
    Bus,
    ConfigurationError,
    EncodeError,
    Message,
    MessageTooLarge,
    NotOpen,
    Queue,
    Retry,
    Router,
    Topic,
    UnibusError,
    UnsupportedCapability,
    constant,
    dead_letter,
    exponential,
    idempotent,
    linear,
    retry,
    timeout,
)
from unibus.attributes import MAX_ATTEMPT
from unibus.errors import BatchError, UnknownScheme
from unibus.testing import app

if TYPE_CHECKING:
    from decimal import Decimal


class Order(BaseModel):
    id: int


class Invoice(BaseModel):
    number: str


def here(function: Callable[..., Any]) -> str:
    """The file and line that an error about the function must name."""
    return f"{inspect.getsourcefile(function)}:{function.__code__.co_firstlineno}"


async def refused(bus: Bus) -> str:
    """Opening the bus is refused; returns what it says."""
    with pytest.raises(ConfigurationError) as caught:
        async with bus:
            pass
    return str(caught.value)


# --- URLs ---------------------------------------------------------------------------------------------


async def test_unknown_scheme_names_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(
        UnknownScheme, match=r"memroy:// is installed.*Did you mean memory://\?.*Known schemes:.*memory"
    ):
        async with Bus("memroy://"):
            pass


async def test_unknown_option_is_named_with_the_known_ones() -> None:
    said = await refused(Bus("memory://?modle=log"))
    assert "'modle'" in said
    assert "did you mean 'model'" in said
    assert "lease" in said


async def test_bad_option_value_is_named() -> None:
    assert "model" in await refused(Bus("memory://?model=stack"))


async def test_option_twice_is_refused() -> None:
    assert "twice" in await refused(Bus("memory://?model=log&model=queue"))


@pytest.mark.parametrize("url", ["memory", "", "://x", "memory:"])
async def test_a_url_without_a_scheme_says_what_one_looks_like(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNIBUS_URL", raising=False)
    said = await refused(Bus(url))
    assert "scheme" in said or "no broker is named" in said


async def test_a_secret_is_never_shown() -> None:
    with pytest.raises(UnibusError) as caught:
        async with Bus("memory://user:CANARY1@host/?password=CANARY2&nonsense=1"):
            pass
    assert "CANARY" not in str(caught.value)
    assert "CANARY" not in repr(caught.value)


async def test_no_url_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.delenv("UNIBUS_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert "UNIBUS_URL" in await refused(Bus())


# --- handlers -----------------------------------------------------------------------------------------


async def test_unresolvable_annotation() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Decimal) -> None: ...

    said = await refused(bus)
    assert here(handle) in said
    assert "Decimal" in said


async def test_no_payload_parameter() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(bus: Bus) -> None: ...

    said = await refused(bus)
    assert here(handle) in said
    assert "no payload parameter" in said


async def test_two_payload_parameters() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order, invoice: Invoice) -> None: ...

    said = await refused(bus)
    assert here(handle) in said
    assert "'order'" in said
    assert "'invoice'" in said


async def test_parameter_without_annotation() -> None:
    bus = Bus("memory://")

    async def handle(order) -> None: ...  # type: ignore[no-untyped-def]

    bus.consumer("orders")(handle)
    assert "'order' has no annotation" in await refused(bus)


async def test_message_of_another_type_than_the_payload() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order, message: Message[Invoice]) -> None: ...

    assert "the two must be the same" in await refused(bus)


async def test_a_parameter_with_a_default_is_not_the_payload() -> None:
    bus = Bus("memory://")
    seen: list[int] = []

    @bus.consumer("orders")
    async def handle(order: Order, factor: int = 2) -> None:
        seen.append(order.id * factor)

    async with app(bus) as t:
        await t.send("orders", Order(id=4))
        await t.settled()
    assert seen == [8]


def test_two_handlers_on_one_queue() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def first(order: Order) -> None: ...

    async def second(order: Order) -> None: ...

    with pytest.raises(ConfigurationError) as caught:
        bus.consumer("orders")(second)
    assert here(first) in str(caught.value)
    assert here(second) in str(caught.value)


def test_two_handlers_in_one_group() -> None:
    bus = Bus("memory://")

    @bus.subscriber("order.*", group="audit")
    async def first(order: Order) -> None: ...

    async def second(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="group 'audit' has two handlers"):
        bus.subscriber("user.*", group="audit")(second)


def test_two_ephemeral_subscribers_of_one_pattern_are_fine() -> None:
    bus = Bus("memory://")
    for _ in range(2):

        @bus.subscriber("order.*")
        async def handle(order: Order) -> None: ...


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Orders!", "is not a name"),
        ("a..b", "is not a name"),
        ("", "is not a name"),
        ("a--b", "is not a name"),
        ("order.*", "a pattern where a name is due"),
        ("unibus.group.x", "keeps for its own"),
        ("x" * 56, "at most 55"),
        (".".join(["a"] * 20), "a dot counts as two"),
    ],
)
def test_a_bad_name_is_refused_with_file_and_line(name: str, says: str) -> None:
    async def handle(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match=re.escape(says)) as caught:
        Bus("memory://").consumer(name)(handle)
    assert here(handle) in str(caught.value)


@pytest.mark.parametrize("pattern", ["order.**", "a.", "order.#x", ""])
def test_a_bad_pattern_is_refused_with_file_and_line(pattern: str) -> None:
    async def handle(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="pattern") as caught:
        Bus("memory://").subscriber(pattern)(handle)
    assert here(handle) in str(caught.value)


def test_a_subscriber_needs_a_topic() -> None:
    async def handle(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="at least one topic"):
        Bus("memory://").subscriber(group="x")(handle)


def test_publishing_to_a_pattern_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="a pattern where a name is due"):
        Bus("memory://").publisher("order.*")


async def test_one_address_declared_in_two_ways() -> None:
    bus = Bus("memory://")

    @bus.consumer(Queue("orders", ordering="key"))
    async def handle(order: Order) -> None: ...

    bus.producer(Queue("orders"))
    said = await refused(bus)
    assert "ordering='key'" in said
    assert here(handle) in said


async def test_a_name_alone_takes_the_declaration_made_elsewhere() -> None:
    bus = Bus("memory://")

    @bus.consumer(Queue("orders", ordering="key"))
    async def handle(order: Order) -> None: ...

    async with bus:
        await bus.producer("orders").send(Order(id=1), key="a")
        with pytest.raises(UnsupportedCapability, match="ordered"):
            await bus.producer("orders").send(Order(id=1), key="a", delay=5)


async def test_a_declaration_made_while_open_may_not_differ() -> None:
    bus = Bus("memory://")

    @bus.consumer(Queue("orders", ordering="key"))
    async def handle(order: Order) -> None: ...

    async with bus:
        with pytest.raises(ConfigurationError, match="declare it once"):
            await bus.producer(Queue("orders")).send(Order(id=1))


def test_a_method_says_how_to_bind() -> None:
    bus = Bus("memory://")
    with pytest.raises(ConfigurationError, match=r"instance\.handle"):

        class Service:
            @bus.consumer("orders")
            async def handle(self, order: Order) -> None: ...


async def test_a_bound_method_is_a_handler() -> None:
    bus = Bus("memory://")

    class Service:
        def __init__(self) -> None:
            self.seen: list[int] = []

        @retry(on=ConnectionError)
        async def handle(self, order: Order) -> None:
            self.seen.append(order.id)

    service = Service()
    bus.consumer("orders")(service.handle)
    async with app(bus) as t:
        await t.send("orders", Order(id=7))
        await t.settled()
    assert service.seen == [7]


def test_two_decorators_of_one_kind() -> None:
    with pytest.raises(ConfigurationError, match="two @timeout"):

        @timeout(1)
        @timeout(2)
        async def handle(order: Order) -> None: ...


@pytest.mark.parametrize(
    "make",
    [
        lambda: retry(on=ValueError, max_elapsed=0),
        lambda: retry(on=ValueError, backoff=5),  # type: ignore[arg-type]
        lambda: retry(on=ValueError, retry_if=True),  # type: ignore[arg-type]
        lambda: retry(on=ValueError, on_exhausted="explode"),  # type: ignore[arg-type]
        lambda: timeout(0),
        lambda: idempotent(ttl=0),
        lambda: exponential(10, max=5),
        lambda: linear(1, jitter="half"),  # type: ignore[arg-type]
        lambda: exponential(1, jitter="half"),  # type: ignore[arg-type]
        lambda: dead_letter("order.*"),
        lambda: dead_letter(5),  # type: ignore[arg-type]
        lambda: Bus("memory://", name=""),
        lambda: Bus("memory://", declare="maybe"),  # type: ignore[arg-type]
        lambda: Queue("orders", ordering="size"),  # type: ignore[arg-type]
        lambda: Queue("orders", partitions=0),
        lambda: Topic("a.b", ordering="x"),  # type: ignore[arg-type]
        lambda: Bus("memory://").pull(),
    ],
)
def test_bad_arguments_are_refused_at_once(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigurationError):
        make()


@pytest.mark.parametrize("bad", [-1, -0.001, True, "5", None, float("nan"), float("inf"), 10**400, timedelta(-1)])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (constant, "constant"),
        (exponential, r"exponential\(first=…\)"),
        (lambda bad: exponential(max=bad), r"exponential\(max=…\)"),
        (lambda bad: exponential(factor=bad), r"exponential\(factor=…\)"),
        (linear, r"linear\(first=…\)"),
        (lambda bad: linear(step=bad), r"linear\(step=…\)"),
        (lambda bad: retry(on=ValueError, max_elapsed=bad), r"retry\(max_elapsed=…\)"),
        (lambda bad: Retry(after=bad), r"Retry\(after=…\)"),
        (timeout, r"timeout\(…\)"),
        (lambda bad: idempotent(ttl=bad), r"idempotent\(ttl=…\)"),
        (lambda bad: Bus("memory://", grace=bad), r"Bus\(grace=…\)"),
        (lambda bad: Bus("memory://").producer("orders", delay=bad), r"producer\(delay=…\)"),
    ],
)
def test_a_duration_is_a_finite_number_that_is_not_negative(
    make: Callable[[Any], object], name: str, bad: object
) -> None:
    if bad is None and name in (r"linear\(step=…\)", r"retry\(max_elapsed=…\)", r"Retry\(after=…\)"):
        make(None)
        return
    with pytest.raises(ConfigurationError, match=name) as caught:
        make(bad)
    assert repr(bad) in str(caught.value)


@pytest.mark.parametrize("on", [5, "ValueError", ValueError("one"), (), (ValueError, int), [ValueError]])
def test_what_is_retried_on_are_exception_classes(on: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"retry\(on=.*exception class"):
        retry(on=on)


@pytest.mark.parametrize("attempts", [0, -1, 1.5, float("nan"), True, "4", MAX_ATTEMPT + 1])
def test_attempts_are_a_whole_number(attempts: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"retry\(attempts=.* from 1, the first run included, to 1,000,000"):
        retry(on=ValueError, attempts=attempts)


async def test_a_backoff_above_the_brokers_longest_delay_is_refused_and_that_is_named() -> None:
    bus = Bus("memory://?delay_max=100")

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=9, backoff=exponential(1, max=3600))
    async def handle(order: Order) -> None: ...

    said = await refused(bus)
    assert "retries after up to 128 s" in said
    assert "delays end at 100 s" in said


async def test_a_backoff_of_the_users_that_fails_is_refused_with_the_handlers_place() -> None:
    bus = Bus("memory://")

    def mine(failures: int) -> float:
        return 2.0 - failures

    @bus.consumer("orders")
    @retry(on=ValueError, attempts=4, backoff=mine)
    async def handle(order: Order) -> None: ...

    said = await refused(bus)
    assert here(handle) in said
    assert "mine after 3 failures: -1.0 is no duration" in said


@pytest.mark.parametrize("option", ["concurrency", "prefetch"])
def test_zero_concurrency_is_refused(option: str) -> None:
    async def handle(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match=f"{option}=0"):
        Bus("memory://").consumer("orders", **{option: 0})(handle)  # type: ignore[arg-type]


async def test_idempotent_without_a_store() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    @idempotent()
    async def handle(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="has no store") as caught:
        async with bus.consuming():
            pass
    assert here(handle) in str(caught.value)


async def test_a_store_in_memory_is_refused_with_more_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Bus("memory://", idempotency_store="memory")

    @bus.consumer("orders")
    @idempotent()
    async def handle(order: Order) -> None: ...

    monkeypatch.setenv("UNIBUS_WORKERS", "4")
    assert "4 workers" in await refused(bus)


async def test_a_union_whose_members_share_a_name() -> None:
    class Other(BaseModel):
        message_type: ClassVar[str] = "Order"

    bus = Bus("memory://")

    async def handle(order: Any) -> None: ...

    handle.__annotations__["order"] = Order | Other
    bus.consumer("orders")(handle)
    assert "one type name" in await refused(bus)


async def test_a_lifespan_must_say_what_it_yields() -> None:
    async def lifespan():  # type: ignore[no-untyped-def]
        yield 1

    assert "AsyncIterator" in await refused(Bus("memory://", lifespan=lifespan))


async def test_a_lifespan_may_yield_a_type_once() -> None:
    async def lifespan() -> AsyncIterator[tuple[Order, Order]]:
        yield Order(id=1), Order(id=2)

    assert "twice" in await refused(Bus("memory://", lifespan=lifespan))


# --- payloads -----------------------------------------------------------------------------------------


async def test_a_wrong_payload_is_refused_before_anything_leaves() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order) -> None: ...

    async with app(bus) as t:
        producer = bus.producer("orders", Order)
        with pytest.raises(EncodeError, match=r"dict does not fit .* Order.*id: Input should be a valid integer"):
            await producer.send({"id": "x"})  # type: ignore[arg-type]
        with pytest.raises(EncodeError, match="object"):
            await bus.producer("orders").send(object())
        with pytest.raises(EncodeError, match="sends bytes"):
            await bus.producer("orders", bytes).send("text")  # type: ignore[arg-type]
        assert t.all_sent == []


CHANGED = """
from pydantic import BaseModel
from unibus.codec import Encoder

class Order(BaseModel):
    id: int

order = Order(id=1)
order.id = "hush"
Encoder(Order).encode(order)
"""


def test_a_payload_that_was_changed_to_what_its_type_forbids_does_not_leave() -> None:
    """In a process of its own: here every warning is an error."""
    done = subprocess.run([sys.executable, "-c", CHANGED], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "EncodeError: a payload of type Order cannot be written as JSON" in done.stderr
    assert "field_name='id', input_type=str" in last
    assert "hush" not in last


async def test_send_many_names_what_could_not_be_encoded_and_sends_the_rest() -> None:
    bus = Bus("memory://")
    seen: list[int] = []

    @bus.consumer("orders")
    async def handle(order: Order) -> None:
        seen.append(order.id)

    async with app(bus) as t:
        with pytest.raises(BatchError, match="2 of 5 messages failed; the first is message 1: EncodeError") as caught:
            await bus.producer("orders", Order).send_many([{"id": 0}, {"id": "a"}, {"id": 2}, {}, {"id": 4}])  # type: ignore[list-item]
        assert sorted(caught.value.errors) == [1, 3]
        await t.settled()
    assert sorted(seen) == [0, 2, 4]


async def test_over_the_limit_says_both_sizes() -> None:
    bus = Bus("memory://?max_body=20")

    @bus.consumer("orders")
    async def handle(order: bytes) -> None: ...

    async with bus:
        await bus.producer("orders").send(b"x" * 20)
        with pytest.raises(MessageTooLarge, match=r"21 bytes.*20 bytes") as caught:
            await bus.producer("orders").send(b"x" * 21)
        assert (caught.value.size, caught.value.limit) == (21, 20)
        assert (await bus.depth("orders")).ready == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"bad name": "x"},
        {"": "x"},
        {"x": "a\nb"},
        {"x": "a\0b"},
        {"x": "y" * 4097},
        {"unibus-x": "1"},
        {"ce_id": "1"},
        {"x": 5},
        {f"h{n}": "x" for n in range(65)},
    ],
)
async def test_headers_that_no_broker_carries(headers: Any) -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order) -> None: ...

    async with bus:
        with pytest.raises(EncodeError):
            await bus.producer("orders").send(Order(id=1), headers=headers)
        assert (await bus.depth("orders")).ready == 0


# --- states -------------------------------------------------------------------------------------------


async def test_before_start_and_after_close() -> None:
    bus = Bus("memory://")

    @bus.consumer("orders")
    async def handle(order: Order) -> None: ...

    producer = bus.producer("orders")
    with pytest.raises(NotOpen, match="not open yet"):
        await producer.send(Order(id=1))
    async with bus:
        await producer.send(Order(id=1))
        with pytest.raises(ConfigurationError, match="open already"):
            await bus.__aenter__()
    for use in (
        lambda: producer.send(Order(id=1)),
        lambda: producer.send_many([Order(id=1)]),
        lambda: bus.depth("orders"),
    ):
        with pytest.raises(NotOpen, match="closed"):
            await use()
    with pytest.raises(NotOpen, match="closed"):
        async with bus.pull(queue="orders"):
            pass


async def test_consuming_twice_is_refused() -> None:
    bus = Bus("memory://")
    async with bus.consuming():
        with pytest.raises(ConfigurationError, match="consuming already"):
            async with bus.consuming():
                pass


async def test_a_router_prefix_that_makes_a_bad_name() -> None:
    router = Router()

    @router.consumer("orders")
    async def handle(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="is not a name") as caught:
        Bus("memory://").include(router, prefix="shop!")
    assert here(handle) in str(caught.value)


async def test_delays_beyond_what_was_said_or_can_be() -> None:
    bus = Bus("memory://?delay_max=100")

    @bus.consumer("orders")
    async def handle(order: Order) -> None: ...

    async with bus:
        with pytest.raises(UnsupportedCapability, match="over the 10 s that the producer"):
            await bus.producer("orders", Order, delay=10).send(Order(id=1), delay=11)
        with pytest.raises(UnsupportedCapability, match="100 s at most"):
            await bus.producer("orders").send(Order(id=1), delay=101)
        for bad in (-1, float("nan"), float("inf"), True):
            with pytest.raises(ConfigurationError, match=r"send\(delay=…\): .* not negative"):
                await bus.producer("orders").send(Order(id=1), delay=bad)
            with pytest.raises(ConfigurationError, match=r"send_many\(delay=…\): .* not negative"):
                await bus.producer("orders").send_many([Order(id=1)], delay=bad)
        assert (await bus.depth("orders")).ready == 0
    bus.producer("orders", Order, delay=500)
    assert "delays of up to 500 s" in await refused(bus)

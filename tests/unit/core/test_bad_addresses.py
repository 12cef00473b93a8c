"""Bad URLs, names, patterns and declarations: an error that says what, where and what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.unit.core.orders import Order
from tests.unit.core.refusals import here, refused
from unibus import Bus, ConfigurationError, Queue, Router, UnibusError, UnsupportedCapability
from unibus.errors import UnknownScheme

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


# --- one handler each ---------------------------------------------------------------------------------


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


# --- names and patterns -------------------------------------------------------------------------------


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


async def test_a_router_prefix_that_makes_a_bad_name() -> None:
    router = Router()

    @router.consumer("orders")
    async def handle(order: Order) -> None: ...

    with pytest.raises(ConfigurationError, match="is not a name") as caught:
        Bus("memory://").include(router, prefix="shop!")
    assert here(handle) in str(caught.value)


# --- declarations -------------------------------------------------------------------------------------


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

"""Conditions: what they mean, and what is said of those that cannot be."""

from __future__ import annotations

import pytest

from unibus.dead_letters import DeadLetter
from unibus.dead_letters.conditions import FIELDS, all_of
from unibus.dead_letters.letter import Letter
from unibus.driver import Delivery
from unibus.errors import ConfigurationError

NOW = 1_800_000_000.0


def letter(record: DeadLetter | None = None, **attributes: str) -> Letter:
    written = {"type": "Order", **attributes, **(record.to_attributes() if record is not None else {})}
    delivery = Delivery(
        b'{"customer":"Ada"}', written, {"tenant": "acme"}, "ada", "id-1", "orders.dlq", NOW - 30, None, False, None
    )
    return Letter(delivery, NOW, "orders")


FAILED = letter(
    DeadLetter(
        reason="failed 4 times: ReadTimeout: the bank is away",
        error_type="httpx.ReadTimeout",
        message="the bank is away",
        stack="Traceback …\n  in charge",
        attempts=4,
        last_failure="2027-01-15T05:59:20.000Z",  # 7240 s before
        source="unibus.group.email",
        group="email",
        topic="order.created",
        handler="shop.mail",
        host="worker-1",
    ),
    unibusreplays="2",
)
STRANGE = letter()


@pytest.mark.parametrize(
    "where",
    [
        "error=httpx.ReadTimeout", "error=ReadTimeout", "error = ConnectionError|ReadTimeout", "error!=ConnectionError",
        "error~timeout", "error!~connection", "age>2h", "age>=7240", "age<3h", "age > 1.5 h", "age<1d", "age>120m",
        "age>120min", "age<1w", "attempts=4", "attempts>=4", "attempts!=3", "attempts<5", "replays=2", "replays<3",
        "source=group:email", "source~email", "topic=order.created", "handler=shop.mail", "host=worker-1",
        "key=ada", "id=id-1", "type=Order", "reason~bank", "text~BANK", "text~ada", "text~acme", "text~in charge",
        "text!~paper", ["error=ReadTimeout", "age>1h", lambda one: one.key is None],
    ],
)  # fmt: skip
def test_holds(where: str | list[str]) -> None:
    if isinstance(where, list):
        where[2:] = []
    assert all_of(where)(FAILED)


@pytest.mark.parametrize(
    "where",
    [
        "error=Timeout", "error!=ReadTimeout", "error~paper", "age<2h", "age>3h", "attempts<4", "attempts>4",
        "replays>2", "source=orders", "source=email", "topic=order", "key=", "text~paper", "text!~bank",
        ["error=ReadTimeout", "age<1h"],
    ],
)  # fmt: skip
def test_does_not_hold(where: str | list[str]) -> None:
    assert not all_of(where)(FAILED)


def test_without_a_record() -> None:
    for where in ("error=", "source=orders", "age<31", "age>=30", "replays=0", "text~ada"):
        assert all_of(where)(STRANGE), where
    for where in ("attempts>=1", "attempts<1", "error~a", "age>31", "reason~a"):
        assert not all_of(where)(STRANGE), where


def test_functions_are_conditions_and_none_is_all() -> None:
    assert all_of(lambda one: one.replays == 2)(FAILED)
    assert not all_of(["error=ReadTimeout", lambda one: False])(FAILED)
    assert all_of(None)(FAILED)
    assert all_of([])(FAILED)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nonsense", "is no condition"),
        ("", "is no condition"),
        ("colour=red", "Known: age, attempts, error"),
        ("age>soon", "'soon' is not a number with s, m, h, d or w"),
        ("age>2y", "'2y' is not"),
        ("age~2h", "age takes = != < <= > or >="),
        ("attempts>2h", "'2h' is not a number"),
        ("error>a", "error takes = != ~ or !~"),
        ("text=a", "text takes ~ or !~"),
    ],
)
def test_what_cannot_be_asked_is_said(where: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        all_of(where)
    assert said in str(raised.value)
    assert repr(where) in str(raised.value)


def test_all_fields_can_be_asked() -> None:
    assert {"age", "attempts", "error", "id", "key", "reason", "replays", "source", "text", "topic", "type"} < set(
        FIELDS
    )


def test_as_plain_data() -> None:
    found = FAILED.to_dict()
    assert found["body"] == '{"customer":"Ada"}'
    assert (found["source"], found["age"], found["attempts"], found["replays"]) == ("group:email", 7240, 4, 2)
    assert found["record"]["error_type"] == "httpx.ReadTimeout"
    assert found["attributes"] == {"type": "Order"}
    assert STRANGE.to_dict()["record"] is None
    binary = Delivery(b"\xff", {}, {}, None, "id-2", "orders.dlq", None, None, False, None)
    assert Letter(binary, NOW).to_dict()["body_base64"] == "/w=="
    assert Letter(binary, NOW).age is None

"""What is in a stream after a turn, whatever the contender believes. Raises AssertionError.

The client types its answers as all that any command may answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.benchmarks.load import check, check_whole
from tests.benchmarks.work import Order

_AT_ONCE = 5_000
_BEGINNING = b'{"order_id"'


async def read_back(client: Any, stream: str, count: int) -> None:
    """All entries are the orders that were sent, in whatever form."""
    orders: list[Order] = []
    last = "-"
    while entries := await client.xrange(stream, min=last, max="+", count=_AT_ONCE):
        orders += [_order(fields.values()) for _, fields in entries]
        last = "(" + entries[-1][0].decode()
    check((order.order_id for order in orders), count)
    check_whole(orders)


async def is_settled(client: Any, stream: str) -> None:
    """Every group has read everything, and nobody has anything left to ack."""
    groups = await client.xinfo_groups(stream)
    assert groups, "nobody consumed from the stream"
    (newest,) = await client.xrevrange(stream, count=1) or [(b"0-0", {})]
    for group in groups:
        assert group["pending"] == 0, f"{group['pending']} entries were handled, but not acked"
        assert _place(group["last-delivered-id"]) >= _place(newest[0]), "entries are left that nobody read"


def _order(values: Iterable[bytes]) -> Order:
    """It stands somewhere in one of the values, as JSON."""
    for value in values:
        begins = value.find(_BEGINNING)
        if begins >= 0:
            found, _ = json.JSONDecoder().raw_decode(value[begins:].decode(errors="replace"))
            return Order.model_validate(found)
    raise AssertionError("there is an entry without an order in it")


def _place(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.decode().partition("-")
    return int(milliseconds), int(number)

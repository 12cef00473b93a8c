"""The faults that every server has to stand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from tests.faults.run import Run
from tests.faults.scenarios import broker, consumers, delays, network, topology

Scenario: TypeAlias = Callable[[Run], Awaitable[None]]

# Those that kill the broker come last: the queues have had their rest by then.
EVERYWHERE: list[Scenario] = [
    consumers.killed_mid_handler,
    consumers.killed_with_effects,
    consumers.scaled,
    consumers.slow,
    consumers.frozen,
    network.black_hole,
    network.dropped_replies,
    topology.deleted_live,
    delays.orphaned,
    delays.killed,
    broker.killed_mid_publish,
    broker.killed_mid_consume,
    broker.killed_with_effects,
    broker.restarted,
]


def named(scenario: Scenario) -> str:
    return f"{scenario.__module__.rpartition('.')[2]}-{scenario.__name__}"

"""Every fault on RabbitMQ, in both versions that Debian has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.faults.rabbitmq import RABBITMQ_3, RABBITMQ_4
from tests.faults.run import Run
from tests.faults.scenarios import broker, consumers, delays, network, topology

# Those that kill the broker come last: the queues have had their rest by then.
SCENARIOS = [
    consumers.killed_mid_handler,
    consumers.killed_with_effects,
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


def named(scenario: Callable[[Run], Awaitable[None]]) -> str:
    return f"{scenario.__module__.rpartition('.')[2]}-{scenario.__name__}"


@pytest.mark.parametrize("scenario", SCENARIOS, ids=named)
@pytest.mark.parametrize("server", [RABBITMQ_4, RABBITMQ_3], ids=lambda server: server.name)
async def test_fault(scenario: Callable[[Run], Awaitable[None]], run: Run) -> None:
    await scenario(run)

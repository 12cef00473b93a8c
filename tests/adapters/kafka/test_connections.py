"""Connections that ended a moment ago."""

from __future__ import annotations

from collections.abc import Callable

from aiokafka.client import ConnectionGroup

from tests.adapters.kafka.conftest import Events, opened, subscribed, until
from tests.brokers import Broker
from unibus.driver import Disconnected, Queue
from unibus.testing.proxy import FaultProxy


async def test_what_has_just_ended_is_replaced_and_not_written_to(url: str, name: Callable[[str], str]) -> None:
    async with opened(url) as driver:
        subscription = await subscribed(driver, Queue(name("orders")))
        for client in (driver._cluster.client, subscription.member._consumer._client):
            node = client.get_random_node()
            assert await client.ready(node)
            connection = client._conns[node, ConnectionGroup.DEFAULT]
            connection._writer.transport.abort()  # of which the library learns in the loop's next round only
            assert await client._metadata_update(client.cluster, set())
            assert client._conns[node, ConnectionGroup.DEFAULT] is not connection


async def test_closing_while_the_server_is_away_is_no_failure(server: Broker, name: Callable[[str], str]) -> None:
    events, port = Events(), server.port + 3
    async with FaultProxy(server.host, server.port + 2, listen=port) as proxy:
        async with opened(f"kafka://127.0.0.1:{port}?session=5&revoke=3&timeout=2") as driver:
            subscription = await subscribed(driver, Queue(name("orders")), events)
            proxy.cut(refuse=True)
            await until(lambda: bool(events.of(Disconnected)), "it is noticed")
        assert subscription.member._consumer._client._sync_task is None, "the client's connections were not closed"
